"""A tiny data set fetched from a server on this machine: repair, locks, disks that refuse."""

import errno
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzz_tools import Patch, Printed, refusal_of
from local_server import Server, archive_of, serving, tar_of
from torchvision.datasets import utils

from darts_lib.data import downloads
from darts_lib.data.downloads import Archive, prepare


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def server(monkeypatch: Patch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(tar_of()) as server:
        yield server


@pytest.fixture
def toy(server: Server) -> Archive:
    return archive_of(server.url, server.body)


def refused(root: Path, toy: Archive, *words: str) -> None:
    refusal_of(lambda: prepare("toy", root, [toy]), "another folder as data_root", *words)


def test_a_download_is_made_once(root: Path, toy: Archive, server: Server, capsys: Printed) -> None:
    prepare("toy", root, [toy])
    assert (root / "toy" / "b").read_bytes() == b"b" * 100
    fetched = server.fetched  # not one: torchvision asks where the address leads first
    prepare("toy", root, [toy])
    assert server.fetched == fetched > 0
    assert "Downloading toy: toy.tar.gz, about 1 MB, from http" in capsys.readouterr().out
    assert {path.name for path in root.iterdir()} == {"toy", "toy.tar.gz", ".toy.lock"}


def test_a_file_used_as_it_is_needs_no_unpacking(root: Path, toy: Archive, server: Server) -> None:
    plain, file = Archive(toy.url, toy.file, (toy.file,), 1), root / "toy.tar.gz"
    prepare("toy", root, [plain])
    assert file.read_bytes() == server.body
    file.write_bytes(b"<html>")
    check = "toy.tar.gz fails its check (6 bytes that begin with b'<html>'"
    refused(root, plain, check, "run again to download it")
    prepare("toy", root, [plain])
    assert file.read_bytes() == server.body
    assert (root / "toy.tar.gz.bad").read_bytes() == b"<html>"


def test_a_web_page_is_refused(
    root: Path, toy: Archive, server: Server, monkeypatch: Patch
) -> None:
    server.body = b"<html>we are sorry</html>"
    refused(root, toy, "put toy.tar.gz into", "toy.tar.gz.part.bad")
    assert (root / "toy.tar.gz.part.bad").read_bytes() == server.body
    assert {path.name for path in root.iterdir()} == {"toy.tar.gz.part.bad", ".toy.lock"}
    monkeypatch.setattr(downloads, "TIMEOUT", 0.2)
    server.let_go.clear()
    refused(root, toy, "timed out")


def test_a_stopped_download_leaves_no_archive(root: Path, toy: Archive, monkeypatch: Patch) -> None:
    def killed(url: str, filename: str) -> None:
        Path(filename).write_bytes(b"the first half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(utils, "_urlretrieve", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare("toy", root, [toy])
    assert not (root / "toy.tar.gz").exists()
    prepare("toy", root, [toy])
    assert toy.faults(root) == []


def failing(number: int) -> object:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def test_a_disk_that_refuses_is_named(root: Path, toy: Archive, monkeypatch: Patch) -> None:
    for number, owner, name in (
        (errno.EROFS, Path, "mkdir"),
        (errno.EACCES, os, "open"),
        (errno.ENOSPC, utils, "_urlretrieve"),
        (errno.ENOSPC, shutil, "copyfileobj"),
        (errno.EROFS, Path, "replace"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, failing(number))
            refused(root, toy, f"toy is not complete in {root}", os.strerror(number))
        prepare("toy", root, [toy])
        assert toy.faults(root) == [], "the next run, with room, must complete the data"
        shutil.rmtree(root)
    prepare("toy", root, [toy])
    monkeypatch.setattr(Path, "mkdir", failing(errno.EROFS))
    monkeypatch.setattr(downloads, "locked", failing(errno.EROFS))
    prepare("toy", root, [toy])


def prepare_in(log: Path, root: Path, toy: Archive) -> None:
    with log.open("w") as sys.stdout:
        prepare("toy", root, [toy])
        print("faulty" if toy.faults(root) else "ready")


def test_one_of_two_downloads(root: Path, toy: Archive, server: Server, tmp_path: Path) -> None:
    server.let_go.clear()
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=prepare_in, args=(log, root, toy)) for log in logs]
    try:
        for process in processes:
            process.start()
        end = time.monotonic() + 60
        while not any(log.exists() and "waiting for it" in log.read_text() for log in logs):
            assert time.monotonic() < end, "neither process waits for the other"
            time.sleep(0.02)
        server.let_go.set()
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    texts = [log.read_text() for log in logs]
    assert all(text.endswith("ready\n") for text in texts)
    for line in ("Downloading toy", "Unpacking", "waiting for it"):
        assert sorted(text.count(line) for text in texts) == [0, 1]


@pytest.mark.parametrize("watched", [False, True])
def test_a_download_shows_a_bar_only_to_a_person(
    watched: bool, root: Path, toy: Archive, monkeypatch: Patch,
    capsys: Printed,
) -> None:  # fmt: skip
    """Of nteract/papermill#765: in a log and a stored output, a bar is thousands of lines."""
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    if watched:
        monkeypatch.setenv("JPY_SESSION_NAME", "03_search.ipynb")
    before = utils.tqdm
    prepare("toy", root, [toy])
    assert utils.tqdm is before
    said = capsys.readouterr()
    assert (("B/s" in said.err), ("\r" in said.out)) == (watched, False)
    assert watched or said.err == ""
