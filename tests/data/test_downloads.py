"""A tiny data set fetched from a server on this machine: repair, locks, disks that refuse."""

import errno
import os
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fuzz_tools import Patch, Printed, failing, refusal_of
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


def test_complete_data_are_neither_fetched_again_nor_written(
    root: Path, toy: Archive, server: Server, capsys: Printed, monkeypatch: Patch
) -> None:
    prepare("toy", root, [toy])
    assert (root / "toy" / "b").read_bytes() == b"b" * 100
    assert "Downloading toy: toy.tar.gz, about 1 MB, from http" in capsys.readouterr().out
    assert {path.name for path in root.iterdir()} == {"toy", "toy.tar.gz", ".toy.lock"}
    fetched = server.fetched  # not one: torchvision asks where the address leads first
    for owner, name in ((Path, "mkdir"), (downloads, "locked")):
        monkeypatch.setattr(owner, name, failing(OSError(errno.EROFS, os.strerror(errno.EROFS))))
    prepare("toy", root, [toy])
    assert server.fetched == fetched > 0


def test_a_file_used_as_it_is_needs_no_unpacking(root: Path, toy: Archive, server: Server) -> None:
    plain, file = Archive(toy.url, toy.file, (toy.file,), 1), root / "toy.tar.gz"
    prepare("toy", root, [plain])
    assert file.read_bytes() == server.body
    file.write_bytes(b"<html>")
    check = "toy.tar.gz fails its check (6 bytes, a web page"
    refused(root, plain, check, "run again to download it")
    prepare("toy", root, [plain])
    assert file.read_bytes() == server.body
    assert (root / "toy.tar.gz.bad").read_bytes() == b"<html>"


def test_a_web_page_is_refused(root: Path, toy: Archive, server: Server, monkeypatch: Any) -> None:
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


@pytest.mark.parametrize(("number", "owner", "name"), [
    (errno.EROFS, Path, "mkdir"),
    (errno.EACCES, os, "open"),
    (errno.ENOSPC, utils, "_urlretrieve"),
    (errno.ENOSPC, shutil, "copyfileobj"),
    (errno.EROFS, Path, "replace"),
])  # fmt: skip
def test_a_disk_that_refuses_is_named(
    number: int, owner: Any, name: str, root: Path, toy: Archive, monkeypatch: Patch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, failing(OSError(number, os.strerror(number))))
        refused(root, toy, f"toy is not complete in {root}", os.strerror(number))
    prepare("toy", root, [toy])
    assert toy.faults(root) == [], "the next run, with room, must complete the data"


def test_one_of_two_downloads(root: Path, toy: Archive, server: Server, capsys: Printed) -> None:
    server.let_go.clear()
    with ThreadPoolExecutor() as pool:
        both = [pool.submit(prepare, "toy", root, [toy]) for _ in range(2)]
        said, end = "", time.monotonic() + 60
        while "waiting for it" not in said and time.monotonic() < end:
            said += capsys.readouterr().out
            time.sleep(0.01)
        server.let_go.set()
        assert [each.result(60) for each in both] == [None, None]
    said += capsys.readouterr().out
    for line in ("Downloading toy", "Unpacking", "waiting for it"):
        assert said.count(line) == 1
    assert toy.faults(root) == []


@pytest.mark.parametrize("watched", [False, True])
def test_a_download_shows_a_bar_only_to_a_person(
    watched: bool, root: Path, toy: Archive, monkeypatch: Patch, capsys: Printed
) -> None:
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
