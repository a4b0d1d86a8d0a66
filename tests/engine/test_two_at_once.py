"""Two processes at once, on one data set or one run folder, and what a killed one leaves behind."""

import contextlib
import functools
import io
import math
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import kill_tools
import pytest
import torch
from kill_tools import PATIENCE, TinyRun, begun, die, differences, ended
from kind_tools import write_text
from local_server import md5, serving
from picture_tools import make
from same_bits import digest
from torchvision.datasets import utils

from darts_lib.data.downloads import Archive, DataFile, prepare
from darts_lib.data.text import load_text
from darts_lib.engine import opening
from darts_lib.engine.files import unpack

pytestmark = pytest.mark.deep


@contextlib.contextmanager
def started(log: Path, action: Callable[..., None], *arguments: Any) -> Iterator[ForkServerProcess]:
    """Start a process, and end it if it is still there afterwards."""
    process = begun(log, action, *arguments)
    try:
        yield process
    finally:
        process.kill()
        process.join(PATIENCE)


def wait_until(log: Path, words: str) -> None:
    end = time.monotonic() + PATIENCE
    while not (log.exists() and words in log.read_text()):
        assert time.monotonic() < end, f"{log.name} never said {words!r}"
        time.sleep(0.01)


# Killed half way --------------------------------------------------------------------------------

TOY = {"toy/a": b"a" * 100_000, "toy/b": b"b" * 100_000}


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    """Return an archive of two files, to be had from this machine."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in TOY.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    body = packed.getvalue()
    members = tuple(DataFile(name, md5(content)) for name, content in TOY.items())
    with serving(body) as server:
        yield Archive(server.url, DataFile("toy.tar.gz", md5(body)), members, 1)


def prepare_and_die(root: Path, archive: Archive, moment: str) -> None:
    """Prepare a data set and be killed half way through the download, in a file or after one."""
    fetch, copy = utils._urlretrieve, shutil.copyfileobj

    def half_fetched(url: str, filename: str, *rest: Any) -> None:
        fetch(url, filename, *rest)
        os.truncate(filename, os.path.getsize(filename) // 2)
        die()

    def half_copied(source: Any, target: Any) -> None:
        if moment == "half a file":
            target.write(source.read(50_000))
            target.flush()
            die()
        copy(source, target)
        replace = Path.replace

        def renamed(path: Path, to: Path) -> Path:
            replace(path, to)
            die()
            return to

        Path.replace = renamed  # type: ignore[assignment, method-assign]

    if moment == "half a download":
        utils._urlretrieve = half_fetched
    else:
        shutil.copyfileobj = half_copied  # type: ignore[assignment]
    prepare("toy", root, [archive])


@pytest.mark.parametrize(
    ("moment", "whole"),
    [("half a download", []), ("half a file", []), ("between two files", ["toy/a"])],
)
def test_what_a_killed_preparation_leaves_is_never_taken_for_whole(
    moment: str, whole: list[str], tmp_path: Path, archive: Archive
) -> None:
    root, log = tmp_path / "data", tmp_path / "killed.log"
    with started(log, prepare_and_die, root, archive, moment) as process:
        assert ended(process) == -signal.SIGKILL, log.read_text()
    there = {name: (root / name).read_bytes() for name in TOY if (root / name).exists()}
    assert there == {name: TOY[name] for name in whole}, "under its name lies a whole file or none"
    assert (root / "toy.tar.gz").exists() == (moment != "half a download")
    prepare("toy", root, [archive])
    assert {name: digest(root / name) for name in TOY} == {n: digest(c) for n, c in TOY.items()}
    left = {str(path.relative_to(root)) for path in root.rglob("*")}
    assert left <= {"toy", "toy.tar.gz", ".toy.lock", *TOY}


def prepare_slowly(root: Path, archive: Archive, go_on: Path) -> None:
    """Prepare a data set, but stop in the middle of the first file until `go_on` is there."""
    copy = shutil.copyfileobj

    def halting(source: Any, target: Any) -> None:
        target.write(source.read(50_000))
        target.flush()
        print("half", flush=True)
        while not go_on.exists():
            time.sleep(0.01)
        copy(source, target)

    shutil.copyfileobj = halting  # type: ignore[assignment]
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
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(started(logs[0], prepare_slowly, root, archive, go_on))
        wait_until(logs[0], "half")
        assert (root / "toy" / "a").read_bytes() == TOY["toy/a"]
        assert (root / "toy" / "b").read_bytes() == b"harmed", "as it was, until it is whole"
        second = stack.enter_context(started(logs[1], prepare_toy, root, archive))
        wait_until(logs[1], "waiting for it")
        go_on.touch()
        assert [ended(first), ended(second)] == [0, 0]
    assert logs[1].read_text().endswith("ready []\n")
    assert "Unpacking" not in logs[1].read_text()


def test_a_text_is_read_and_nothing_is_written(tmp_path: Path) -> None:
    """So there is nothing that two processes could do to each other."""
    write_text(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    found = [load_text("folder", tmp_path) for _ in range(2)]
    load_text("topics", tmp_path)
    assert torch.equal(found[0].train, found[1].train)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


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


def is_gone(process: int) -> bool:
    """Say whether a process has ended, waited for or not."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    state = Path(f"/proc/{process}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_workers_end_when_the_process_that_they_read_for_is_killed(tmp_path: Path) -> None:
    """Else they hold memory for good: nobody is left who could stop them."""
    command = [sys.executable, "-c", READER, str(make(tmp_path))]
    own = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=own) as reader:
        assert reader.stdout is not None
        line = next(line for line in reader.stdout if line.startswith("workers "))
        workers = [int(word) for word in line.split()[1:]]
        reader.kill()
    assert len(workers) == 2
    until = time.monotonic() + 120
    while not all(map(is_gone, workers)):
        assert time.monotonic() < until, f"still there: {workers}"
        time.sleep(0.2)


# One run folder ---------------------------------------------------------------------------------


def run_patiently(run: TinyRun) -> None:
    """Run as the command does; wait for the folder as long as it takes."""
    opening.locked = functools.partial(opening.locked, wait=math.inf)  # type: ignore[attr-defined]
    kill_tools.command(run)


def test_of_two_runs_in_one_folder_one_works_and_the_other_reads_it_back(tmp_path: Path) -> None:
    run, straight = (TinyRun("toy", tmp_path / name, 3) for name in ("run", "straight"))
    straight.finish()
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    with contextlib.ExitStack() as stack:
        both = [stack.enter_context(started(log, run_patiently, run)) for log in logs]
        assert [ended(process) for process in both] == [0, 0]
    said = [log.read_text() for log in logs]
    assert sorted(text.count("finished already; read back from") for text in said) == [0, 1]
    assert sorted(text.count("\nepoch ") for text in said) == [0, 3], "no epoch is run twice"
    assert differences(run.path, straight.path) == []
    assert unpack(run.path / "checkpoint.pt")["threads"] == 1
