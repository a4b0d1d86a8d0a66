"""A tiny data set fetched from a server on this machine: repair, locks, disks that refuse."""

import errno
import hashlib
import http.server
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from torchvision.datasets import utils

from darts_lib.data import downloads
from darts_lib.data.downloads import Archive, DataFile, prepare
from darts_lib.engine.refusals import SettingsError


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves one body to every request, once it is let go, and counts the requests for it."""

    daemon_threads = True

    def __init__(self, body: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.fetched, self.let_go = body, 0, threading.Event()
        self.let_go.set()


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:  # noqa: N802  (the name that http.server looks for)
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()

    def do_GET(self) -> None:  # noqa: N802
        self.server.fetched += 1
        self.server.let_go.wait(120)
        self.do_HEAD()
        self.wfile.write(self.server.body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def packed(tmp_path: Path) -> bytes:
    """Return an archive with the folder toy and its files a and b."""
    folder = tmp_path / "source" / "toy"
    folder.mkdir(parents=True)
    for name in "ab":
        (folder / name).write_bytes(name.encode() * 100)
    with tarfile.open(tmp_path / "source" / "toy.tar.gz", "w:gz") as archive:
        archive.add(folder, "toy")
    return (tmp_path / "source" / "toy.tar.gz").read_bytes()


@pytest.fixture
def server(packed: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server(packed) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.let_go.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def toy(server: Server, packed: bytes) -> Archive:
    members = tuple(DataFile(f"toy/{name}", md5(name.encode() * 100)) for name in "ab")
    url = f"http://127.0.0.1:{server.server_port}/toy.tar.gz"
    return Archive(url, DataFile("toy.tar.gz", md5(packed)), members, 1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


def refusal(root: Path, toy: Archive) -> str:
    with pytest.raises(SettingsError) as caught:
        prepare("toy", root, [toy])
    message = str(caught.value)
    assert "\n" not in message
    assert "another folder as data_root" in message
    return message


def test_what_is_absent_is_downloaded_once(
    root: Path, toy: Archive, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare("toy", root, [toy])
    assert (root / "toy" / "b").read_bytes() == b"b" * 100
    fetched = server.fetched  # not one: torchvision asks where the address leads first
    prepare("toy", root, [toy])
    assert server.fetched == fetched > 0
    assert "Downloading toy: toy.tar.gz, about 1 MB, from http" in capsys.readouterr().out
    names = {path.name for path in root.iterdir()}
    assert names == {"toy", "toy.tar.gz", ".toy.lock"}


def test_a_file_used_as_it_is_needs_no_unpacking(root: Path, toy: Archive, packed: bytes) -> None:
    plain = Archive(toy.url, toy.file, (toy.file,), 1)
    prepare("toy", root, [plain])
    assert (root / "toy.tar.gz").read_bytes() == packed
    (root / "toy.tar.gz").write_bytes(b"<html>")
    assert "6 bytes that begin with b'<html>'" in refusal(root, plain)
    prepare("toy", root, [plain])
    assert (root / "toy.tar.gz").read_bytes() == packed
    assert (root / "toy.tar.gz.bad").read_bytes() == b"<html>"


def test_a_web_page_from_the_server_is_never_taken_for_the_archive(
    root: Path, toy: Archive, server: Server
) -> None:
    server.body = b"<html>we are sorry</html>"
    message = refusal(root, toy)
    assert "put toy.tar.gz into" in message
    assert "toy.tar.gz.part.bad" in message
    assert not (root / "toy.tar.gz").exists()
    assert (root / "toy.tar.gz.part.bad").read_bytes() == server.body


def test_a_silent_server_is_given_up(
    root: Path, toy: Archive, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "TIMEOUT", 0.2)
    server.let_go.clear()
    assert "timed out" in refusal(root, toy)


def test_an_interrupted_download_leaves_nothing_that_looks_whole(
    root: Path, toy: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_an_archive_of_other_files_is_reported(root: Path, toy: Archive) -> None:
    odd = Archive(toy.url, toy.file, (DataFile("toy/c"),), 1)
    with pytest.raises(SettingsError, match="toy/c is missing"):
        prepare("toy", root, [odd])


# Disks ------------------------------------------------------------------------------------------


def fail_with(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def test_complete_data_on_a_read_only_disk_are_used(
    root: Path, toy: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare("toy", root, [toy])

    def read_only(*_: object, **__: object) -> None:
        raise fail_with(errno.EROFS)

    monkeypatch.setattr(Path, "mkdir", read_only)
    monkeypatch.setattr(downloads, "locked", read_only)
    prepare("toy", root, [toy])


@pytest.mark.parametrize(
    ("number", "owner", "name"),
    [
        (errno.EROFS, Path, "mkdir"),
        (errno.EACCES, os, "open"),
        (errno.ENOSPC, utils, "_urlretrieve"),
        (errno.ENOSPC, shutil, "copyfileobj"),
        (errno.EROFS, Path, "replace"),
    ],
)
def test_a_disk_that_cannot_be_written_is_named(
    number: int,
    owner: object,
    name: str,
    root: Path,
    toy: Archive,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise fail_with(number)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        message = refusal(root, toy)
    assert f"toy is not complete in {root}" in message
    assert os.strerror(number) in message
    prepare("toy", root, [toy])
    assert toy.faults(root) == [], "the next run, with room, must complete the data"


# Two at once ------------------------------------------------------------------------------------

PROGRAM = """
import sys
from pathlib import Path
from darts_lib.data.downloads import Archive, DataFile, prepare
root, url, tar, a, b = sys.argv[1:]
members = (DataFile("toy/a", a), DataFile("toy/b", b))
prepare("toy", Path(root), [Archive(url, DataFile("toy.tar.gz", tar), members, 1)])
print("ready" if not any(not member.sound(Path(root)) for member in members) else "faulty")
"""


def test_of_two_processes_one_downloads_and_the_other_waits(
    root: Path, toy: Archive, server: Server, tmp_path: Path
) -> None:
    server.let_go.clear()
    sums = [file.md5 or "" for file in (toy.file, *toy.members)]
    command = [sys.executable, "-c", PROGRAM, str(root), toy.url, *sums]
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    processes = []
    try:
        for log in logs:
            with log.open("w") as file:
                processes.append(subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT))
        end = time.monotonic() + 120
        while not any("waiting for it" in log.read_text() for log in logs):
            assert time.monotonic() < end, "neither process waits for the other"
            time.sleep(0.02)
        server.let_go.set()
        assert [process.wait(120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    texts = [log.read_text() for log in logs]
    assert all(text.endswith("ready\n") for text in texts)
    for work in ("Downloading toy", "Unpacking"):
        assert sorted(text.count(work) for text in texts) == [0, 1]
    assert sorted(text.count("waiting for it") for text in texts) == [0, 1]
