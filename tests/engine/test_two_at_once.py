"""Two processes at once, on one data set or one run folder, and what a killed one leaves behind."""

import contextlib
import functools
import hashlib
import math
import multiprocessing
import os
import pickle
import shutil
import signal
import socket
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import kill_tools
import numpy as np
import pytest
import torch
from kill_tools import FORKS, PATIENCE, TinyRun, differences, ended
from same_bits import digest
from test_downloads import Server
from torch import Tensor
from torchvision.datasets import CIFAR10, utils

from darts_lib.data.data_sets import read_downloaded
from darts_lib.data.downloads import Archive, DataFile, prepare
from darts_lib.data.text import load_text
from darts_lib.engine import files, opening
from darts_lib.engine.files import unpack
from darts_lib.engine.folder import Progress
from darts_lib.engine.opening import opened
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.run_files import read_history
from darts_lib.engine.settings import RunConfig

# In the other processes -------------------------------------------------------------------------


def work(log: Path, action: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """Do something in a process of its own, and write what it prints into a file."""
    os.environ["no_proxy"] = "127.0.0.1"
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # tqdm's lock then leaves nothing behind
    with open(log, "a", buffering=1) as file, contextlib.ExitStack() as to:
        to.enter_context(contextlib.redirect_stdout(file))
        to.enter_context(contextlib.redirect_stderr(file))
        action(*arguments)


@contextlib.contextmanager
def started(log: Path, action: Callable[..., None], *arguments: Any) -> Iterator[ForkServerProcess]:
    """Start a process, and end it if it is still there afterwards."""
    process = FORKS.Process(target=work, args=(log, action, arguments), daemon=True)
    process.start()
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


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# One data set -----------------------------------------------------------------------------------


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes], Server]]:
    """Return a function that serves bytes from this machine."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with contextlib.ExitStack() as stack:

        def start(body: bytes) -> Server:
            server = stack.enter_context(Server(body))
            thread = threading.Thread(target=server.serve_forever, args=(0.05,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            stack.callback(server.let_go.set)
            return server

        yield start


def packed(folder: Path, contents: dict[str, bytes]) -> bytes:
    """Return a `.tar.gz` with these files, in this order."""
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    with tarfile.open(folder / "packed.tar.gz", "w:gz") as archive:
        for name in contents:
            archive.add(folder / name, name)
    return (folder / "packed.tar.gz").read_bytes()


def tiny_cifar(folder: Path, url: Callable[[bytes], str]) -> dict[str, Any]:
    """Return what torchvision should know of a CIFAR-10 of six files of 20 pictures."""
    rng, base = np.random.RandomState(0), CIFAR10.base_folder
    names = [name for name, _ in [*CIFAR10.train_list, *CIFAR10.test_list]]
    contents = {}
    for name in names:
        pixels = rng.randint(256, size=(20, 3072)).astype(np.uint8)
        labels = rng.randint(10, size=20).tolist()
        contents[f"{base}/{name}"] = pickle.dumps({"data": pixels, "labels": labels})
    contents[f"{base}/batches.meta"] = pickle.dumps({"label_names": list("abcdefghij")})
    body = packed(folder, contents)
    sums = [[name, md5(contents[f"{base}/{name}"])] for name in names]
    meta = {**CIFAR10.meta, "md5": md5(contents[f"{base}/batches.meta"])}
    known = {"train_list": sums[:5], "test_list": sums[5:], "meta": meta}
    return known | {"tgz_md5": md5(body), "url": url(body)}


def read_cifar(known: dict[str, Any], root: Path) -> None:
    """Read a tiny CIFAR-10 and print a digest of all its pictures and labels."""
    for name, value in known.items():
        setattr(CIFAR10, name, value)
    (train, labels), (test, test_labels), _ = read_downloaded("cifar10", root)
    parts = (train, labels, test, test_labels)
    print("read", digest(b"".join(part.numpy().tobytes() for part in parts)))


def test_two_processes_read_the_same_pictures_after_one_download(
    tmp_path: Path, serve: Callable[[bytes], Server]
) -> None:
    servers: list[Server] = []

    def url(body: bytes) -> str:
        servers.append(serve(body))
        servers[0].let_go.clear()
        return f"http://127.0.0.1:{servers[0].server_port}/{CIFAR10.filename}"

    known, root = tiny_cifar(tmp_path / "source", url), tmp_path / "data"
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(started(logs[0], read_cifar, known, root))]
        wait_until(logs[0], "Downloading cifar10")
        processes.append(stack.enter_context(started(logs[1], read_cifar, known, root)))
        wait_until(logs[1], "waiting for it")
        servers[0].let_go.set()
        assert [ended(process) for process in processes] == [0, 0]
        fetched = servers[0].fetched
        processes.append(
            stack.enter_context(started(tmp_path / "third.log", read_cifar, known, root))
        )
        assert ended(processes[2]) == 0
    said = [log.read_text() for log in (*logs, tmp_path / "third.log")]
    assert servers[0].fetched == fetched, "what is there is not fetched again"
    assert [text.count("Downloading") for text in said] == [1, 0, 0]
    assert [text.count("Unpacking") for text in said] == [1, 0, 0]
    read = [text.splitlines()[-1] for text in said]
    assert read[0].startswith("read ")
    assert read == read[:1] * 3


# Killed half way --------------------------------------------------------------------------------

TOY = {"toy/a": b"a" * 100_000, "toy/b": b"b" * 100_000}


@pytest.fixture
def toy(tmp_path: Path, serve: Callable[[bytes], Server]) -> Archive:
    """Return an archive of two files, to be had from this machine."""
    body = packed(tmp_path / "source", TOY)
    members = tuple(DataFile(name, md5(content)) for name, content in TOY.items())
    url = f"http://127.0.0.1:{serve(body).server_port}/toy.tar.gz"
    return Archive(url, DataFile("toy.tar.gz", md5(body)), members, 1)


def prepare_and_die(root: Path, toy: Archive, moment: str) -> None:
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
    prepare("toy", root, [toy])


@pytest.mark.parametrize(
    ("moment", "whole"),
    [("half a download", []), ("half a file", []), ("between two files", ["toy/a"])],
)
def test_what_a_killed_preparation_leaves_is_never_taken_for_whole(
    moment: str, whole: list[str], tmp_path: Path, toy: Archive
) -> None:
    root, log = tmp_path / "data", tmp_path / "killed.log"
    with started(log, prepare_and_die, root, toy, moment) as process:
        assert ended(process) == -signal.SIGKILL, log.read_text()
    there = [name for name in TOY if (root / name).exists()]
    assert there == whole, "under its name lies a whole file or none"
    assert all((root / name).read_bytes() == TOY[name] for name in there)
    assert (root / "toy.tar.gz").exists() == (moment != "half a download")
    prepare("toy", root, [toy])
    assert {name: digest(root / name) for name in TOY} == {n: digest(c) for n, c in TOY.items()}
    assert {path.name for path in root.iterdir()} <= {"toy", "toy.tar.gz", ".toy.lock"}
    assert {path.name for path in (root / "toy").iterdir()} == {"a", "b"}


def prepare_slowly(root: Path, toy: Archive, go_on: Path) -> None:
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
    prepare("toy", root, [toy])


def prepare_toy(root: Path, toy: Archive) -> None:
    prepare("toy", root, [toy])
    print("ready", toy.faults(root))


def test_while_one_repairs_a_file_nobody_sees_half_of_it(tmp_path: Path, toy: Archive) -> None:
    """A reader that has found the other files sound may be reading them already."""
    root, go_on = tmp_path / "data", tmp_path / "go on"
    prepare("toy", root, [toy])
    (root / "toy" / "b").write_bytes(b"harmed")
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    with (
        started(logs[0], prepare_slowly, root, toy, go_on) as first,
        contextlib.ExitStack() as later,
    ):
        wait_until(logs[0], "half")
        assert (root / "toy" / "a").read_bytes() == TOY["toy/a"]
        assert (root / "toy" / "b").read_bytes() == b"harmed", "as it was, until it is whole"
        second = later.enter_context(started(logs[1], prepare_toy, root, toy))
        wait_until(logs[1], "waiting for it")
        go_on.touch()
        assert [ended(first), ended(second)] == [0, 0]
    assert logs[1].read_text().endswith("ready []\n")
    assert "Unpacking" not in logs[1].read_text()


def test_a_text_is_read_and_nothing_is_written(tmp_path: Path) -> None:
    """So there is nothing that two processes could do to each other."""
    kill_tools.write_text(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    found = [load_text("folder", tmp_path / "text") for _ in range(2)]
    load_text("topics", tmp_path)
    assert torch.equal(found[0].train, found[1].train)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


# One run folder ---------------------------------------------------------------------------------


def config(path: Path, epochs: int = 4) -> RunConfig:
    given = {"scale": "laptop", "dataset": "digits", "epochs": epochs}
    return RunConfig.create(**given, run_dir=str(path))


def toy_run(config: RunConfig, after: Callable[[int], None] = lambda epoch: None) -> Tensor:
    """Run epochs of no cost into the folder; call `after` with the number of each."""
    with opened(config) as folder:
        state, progress = torch.linspace(0, 1, 100), Progress()
        if stored := folder.load():
            state, progress = stored[0]["x"], stored[1]
        while progress.epochs < config.epochs:
            state = torch.sin(3 * state + progress.epochs)
            progress.history.append({"epoch": progress.epochs + 1})
            folder.save({"x": state}, progress)
            after(progress.epochs)
        folder.finish({})
    return state


def run_and_stay(path: Path) -> None:
    """Run two epochs, and stay in the folder until this process is killed."""

    def stay(epoch: int) -> None:
        if epoch == 2:
            print("stays", flush=True)
            time.sleep(PATIENCE)

    toy_run(config(path), stay)


@contextlib.contextmanager
def occupied(path: Path) -> Iterator[ForkServerProcess]:
    """Let another process be in the run folder after its second epoch."""
    log = path.with_suffix(".owner.log")
    with started(log, run_and_stay, path) as owner:
        wait_until(log, "stays")
        yield owner


class Clock:
    """A clock that goes on when somebody sleeps; `asleep` is called each time."""

    def __init__(self, asleep: Callable[[], object] = lambda: None) -> None:
        self.now, self.asleep = 0.0, asleep

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.asleep()


def test_the_second_waits_fifteen_seconds_and_is_then_told_who_has_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, clock = tmp_path / "run", Clock()
    with occupied(path) as owner:
        before = {file.name: digest(file) for file in path.iterdir()}
        monkeypatch.setattr(files, "time", clock)
        with pytest.raises(SettingsError) as caught:
            toy_run(config(path))
        assert {file.name: digest(file) for file in path.iterdir()} == before
    name = f"run folder {path} is in use by process {owner.pid} on {socket.gethostname()}"
    assert capsys.readouterr().out == f"{name}; waiting for it, at most 15 s.\n"
    assert str(caught.value).startswith(name)
    assert "wait for it to finish, stop it, or choose another" in str(caught.value)
    assert 15 <= clock.now < 16


def test_the_folder_is_free_as_soon_as_its_owner_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, straight = tmp_path / "run", toy_run(config(tmp_path / "straight"))
    with occupied(path) as owner:

        def kill_owner() -> None:
            os.kill(owner.pid or 0, signal.SIGKILL)
            owner.join(PATIENCE)

        clock = Clock(kill_owner)
        monkeypatch.setattr(files, "time", clock)
        assert torch.equal(toy_run(config(path)), straight)
    said = capsys.readouterr().out
    assert f"in use by process {owner.pid}" in said
    assert f"resuming at epoch 3 from {path}" in said
    assert clock.now < 1, "no time is lost"
    assert [row["epoch"] for row in read_history(path)] == [1, 2, 3, 4]


def search_patiently(run: TinyRun) -> None:
    """Search as the command does; wait for the folder as long as it takes."""
    opening.locked = functools.partial(opening.locked, wait=math.inf)  # type: ignore[attr-defined]
    kill_tools.command(run)


def test_of_two_searches_in_one_folder_one_works_and_the_other_reads_it_back(
    tmp_path: Path,
) -> None:
    run, straight = (TinyRun("search", tmp_path / name, 3) for name in ("run", "straight"))
    straight.finish()
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    with contextlib.ExitStack() as stack:
        both = [stack.enter_context(started(log, search_patiently, run)) for log in logs]
        assert [ended(process) for process in both] == [0, 0]
    said = [log.read_text() for log in logs]
    assert sorted(text.count("finished already; read back from") for text in said) == [0, 1]
    assert sorted(text.count("epoch ") for text in said) == [0, 3], "no epoch is run twice"
    assert differences(run.path, straight.path) == []
    assert unpack(run.path / "checkpoint.pt")["threads"] == 1
