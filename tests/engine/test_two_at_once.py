"""Two processes at once, on one data set or run folder, and what a killed one leaves behind."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fuzz_tools import Patch
from kill_tools import TinyRun, begun, command, differences, ended, wait_for
from local_server import GOOD, archive_of, serving, tar_of
from picture_tools import make
from torchvision.datasets import utils

from darts_lib.data.downloads import Archive, prepare

pytestmark = pytest.mark.deep


def toy_files(root: Path) -> dict[str, bytes]:
    return {name: (root / name).read_bytes() for name in GOOD if (root / name).exists()}


@pytest.fixture
def archive(monkeypatch: Patch) -> Iterator[Archive]:
    """Return an archive of two files, to be had from this machine."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(tar_of()) as server:
        yield archive_of(server.url, server.body)


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def half_copied(then: Callable[..., None]) -> Callable[[Any, Any], None]:
    """Return what copies half of a file, does something, and copies the rest."""
    copy = shutil.copyfileobj

    def copied(source: Any, target: Any) -> None:
        target.write(source.read(50))
        target.flush()
        then()
        copy(source, target)

    return copied


def prepare_and_die(root: Path, archive: Archive, moment: str) -> None:
    """Prepare a data set and be killed half way through the download, in a file or after one."""
    fetch, replace = utils._urlretrieve, Path.replace

    def half_fetched(url: str, filename: str, *rest: Any) -> None:
        fetch(url, filename, *rest)
        os.truncate(filename, os.path.getsize(filename) // 2)
        die()

    def die_once_renamed() -> None:
        Path.replace = lambda path, to: die(replace(path, to))

    if moment == "half a download":
        utils._urlretrieve = half_fetched
    else:
        then = die if moment == "half a file" else die_once_renamed
        shutil.copyfileobj = half_copied(then)
    prepare("toy", root, [archive])


@pytest.mark.parametrize(("moment", "whole"), [
    ("half a download", []), ("half a file", []), ("between two files", ["toy/a"]),
])  # fmt: skip
def test_what_a_killed_preparation_leaves_is_never_taken_for_whole(
    moment: str, whole: list[str], tmp_path: Path, archive: Archive
) -> None:
    root, log = tmp_path / "data", tmp_path / "killed.log"
    process = begun(log, prepare_and_die, root, archive, moment)
    assert ended(process) == -signal.SIGKILL, log.read_text()
    assert toy_files(root) == {name: GOOD[name] for name in whole}, "a whole file or none"
    assert (root / "toy.tar.gz").exists() == (moment != "half a download")
    prepare("toy", root, [archive])
    assert toy_files(root) == GOOD
    left = {str(path.relative_to(root)) for path in root.rglob("*")}
    assert left <= {"toy", "toy.tar.gz", ".toy.lock", *GOOD}


def prepare_slowly(root: Path, archive: Archive, go_on: Path) -> None:
    """Prepare a data set, but stop in the middle of the first file until `go_on` is there."""

    def halt() -> None:
        print("half", flush=True)
        wait_for(go_on.exists, "leave to go on")

    shutil.copyfileobj = half_copied(halt)
    prepare("toy", root, [archive])


def prepare_toy(root: Path, archive: Archive) -> None:
    prepare("toy", root, [archive])
    print("ready", archive.faults(root))


def test_while_one_repairs_a_file_nobody_sees_half_of_it(tmp_path: Path, archive: Archive) -> None:
    """A reader that has found the other files sound may be reading them already."""
    root, go_on = tmp_path / "data", tmp_path / "go on"
    prepare("toy", root, [archive])
    (root / "toy" / "b").write_bytes(b"harmed")
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    for log in logs:
        log.touch()
    first = begun(logs[0], prepare_slowly, root, archive, go_on)
    wait_for(lambda: "half" in logs[0].read_text(), "the first process")
    assert toy_files(root) == {**GOOD, "toy/b": b"harmed"}, "as it was, until it is whole"
    second = begun(logs[1], prepare_toy, root, archive)
    wait_for(lambda: "waiting for it" in logs[1].read_text(), "the second process")
    go_on.touch()
    assert [ended(first), ended(second)] == [0, 0]
    assert logs[1].read_text().endswith("ready []\n")
    assert "Unpacking" not in logs[1].read_text()


READER = """
import multiprocessing, sys, time
from pathlib import Path
import torch
from darts_lib.data.imagenet_data import find_pictures, read_batches
train, _ = find_pictures(Path(sys.argv[1]), 32)
reading = read_batches(train, [torch.arange(4)] * 1000, 2, torch.device("cpu"), 9)
next(reading)
print("workers", *(child.pid for child in multiprocessing.active_children()), flush=True)
time.sleep(600)
"""


def test_workers_end_when_the_process_that_they_read_for_is_killed(tmp_path: Path) -> None:
    """Else they hold memory for good: nobody is left who could stop them."""
    reading = [sys.executable, "-c", READER, str(make(tmp_path))]
    own = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(reading, stdout=subprocess.PIPE, text=True, env=own) as reader:
        assert reader.stdout is not None
        line = next(line for line in reader.stdout if line.startswith("workers "))
        assert len(line.split()) == 3
        reader.kill()
        reader.communicate(timeout=120)  # until nobody is left who could write into the pipe


def test_of_two_runs_in_one_folder_one_works_and_the_other_reads_it_back(tmp_path: Path) -> None:
    run, straight = (TinyRun("toy", tmp_path / name, 3) for name in ("run", "straight"))
    straight.finish()
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    both = [begun(log, command, run) for log in logs]
    assert [ended(process) for process in both] == [0, 0]
    texts = [log.read_text() for log in logs]
    assert sorted(text.count("finished already; read back from") for text in texts) == [0, 1]
    assert sorted(text.count("\nepoch ") for text in texts) == [0, 3], "no epoch is run twice"
    assert differences(run.path, straight.path) == []
