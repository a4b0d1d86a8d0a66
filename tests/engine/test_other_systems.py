"""Other systems: every kind of run without what only Unix has, and with Windows' rules for files.

The rules are imitated: nobody reads a byte that another handle has locked, and a file that is open
or mapped is neither replaced nor deleted.
"""

import ast
import contextlib
import importlib
import io
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzz_tools import Patch, Printed, Said, refusal_of
from kill_tools import differences
from kind_tools import KINDS, Kind, stop_after, write_text
from picture_tools import make
from sources import MODULES

from darts_lib.data.imagenet_data import find_pictures, read_batches
from darts_lib.engine import files
from darts_lib.engine.command_line import run_command
from darts_lib.engine.files import locked, write_whole
from darts_lib.engine.places import place
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.settings import data_root, runs_root
from darts_lib.formats.network_files import load_network
from darts_lib.formats.weight_files import save_weights
from darts_lib.genotype import PUBLISHED
from darts_lib.network import Network

GONE = {
    os: "fork forkpty pread pwrite getuid geteuid getgid getpgid setsid sched_getaffinity statvfs "
    "mkfifo chown lchown killpg nice getloadavg uname O_NOFOLLOW O_DIRECTORY O_NONBLOCK EX_OK",
    signal: "SIGKILL SIGHUP SIGUSR1 SIGCHLD SIGQUIT alarm pause",
}
MODULES_GONE = ("fcntl", "resource", "pwd", "grp", "termios", "syslog", "posix_ipc")
DENIED = PermissionError(13, "Permission denied")
READ = os.read


class Locks:
    """Windows' locks of single bytes: they belong to a handle, and nobody else reads the byte."""

    LK_NBLCK, LK_UNLCK = 2, 0

    def __init__(self) -> None:
        self.owners: dict[tuple[int, int], int] = {}

    def locking(self, file: int, mode: int, _count: int) -> None:
        key = os.fstat(file).st_ino, os.lseek(file, 0, os.SEEK_CUR)
        if self.owners.get(key, file) != file or (mode == self.LK_UNLCK and key not in self.owners):
            raise DENIED
        self.owners.pop(key, None) if mode == self.LK_UNLCK else self.owners.update({key: file})

    def read(self, file: int, count: int) -> bytes:
        for (inode, byte), owner in self.owners.items():
            start = os.lseek(file, 0, os.SEEK_CUR) if os.fstat(file).st_ino == inode else byte + 1
            if owner != file and start <= byte < start + count:
                raise DENIED
        return READ(file, count)


def failing(error: Exception) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def unless_open(call: Callable[..., None]) -> Callable[..., None]:
    """Return a call on files that fails where one of them is open or mapped by this process."""

    def checked(*paths: Any, **options: Any) -> None:
        links = set()
        for number in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):  # the list's own
                links.add(os.readlink(f"/proc/self/fd/{number}"))
        mapped = Path("/proc/self/maps").read_text(encoding="utf-8")
        for path in map(os.path.abspath, paths):
            if path in links or f" {path}\n" in mapped:
                raise DENIED
        call(*paths, **options)

    return checked


@pytest.fixture
def windows(monkeypatch: Patch) -> None:
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("which files are open is read in /proc")
    importlib.import_module("sklearn.datasets")  # joblib looks at the system while it is loaded
    for module, names in GONE.items():
        for name in names.split():
            monkeypatch.delattr(module, name, raising=False)
    for name in MODULES_GONE:
        monkeypatch.setitem(sys.modules, name, None)
    locks = Locks()
    monkeypatch.setitem(sys.modules, "msvcrt", locks)
    monkeypatch.setattr(os, "read", locks.read)
    for name in ("replace", "unlink", "remove"):
        monkeypatch.setattr(os, name, unless_open(getattr(os, name)))
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(files, "PATIENCE", 3)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    """Return a kind of run with its data, at a path with blanks and letters beyond ASCII."""
    small = KINDS[request.param]
    (root := tmp_path / "Bilder für 猫").mkdir()
    write = write_text if "recurrent" in request.param else make
    return Kind(small.run, small.go, {**small.given, "data_root": str(write(root)), "epochs": 2})


def test_a_run_stops_goes_on_and_is_read_back_without_what_only_unix_has(
    kind: Kind, tmp_path: Path, windows: None, said: Said
) -> None:
    path = tmp_path / "läufe und 猫" / "run"
    lock, seen = path.parent / ".run.lock", []

    def second(row: dict[str, Any]) -> None:
        owner = f"run is in use by process {os.getpid()} on {socket.gethostname()}"
        refusal_of(lambda: locked(lock, "run", wait=0).__enter__(), owner)
        seen.append(row["epoch"])
        stop_after(1)(row)

    with pytest.raises(KeyboardInterrupt):
        kind.go(kind.settings(path), second)
    kind.go(kind.settings(path), second)
    assert len(kind.go(kind.settings(path), second).history) == 2
    assert seen == [1, 2]
    assert f"finished already; read back from {path}" in said()
    with locked(lock, "run", wait=0):
        pass


def test_a_file_that_somebody_reads_is_waited_for_then_named(
    tmp_path: Path, windows: None, monkeypatch: Patch
) -> None:
    file = tmp_path / "x"
    write_whole(file, b"old")
    with file.open("rb"):
        refusal_of(lambda: write_whole(file, b"new"), f"{file} was not written (Permission denied)")
    reader = file.open("rb")
    monkeypatch.setattr(time, "sleep", lambda _: reader.close())
    write_whole(file, b"new")
    assert file.read_bytes() == b"new"
    assert list(tmp_path.glob(".*")) == []


def test_weights_that_were_read_can_be_written_again(tmp_path: Path, windows: None) -> None:
    net, file = Network(PUBLISHED["DARTS_V2"], 2, 1), tmp_path / "weights.safetensors"
    save_weights(net, PUBLISHED["DARTS_V2"], file)
    _, cell = load_network(file)
    save_weights(net, PUBLISHED["DARTS_V2"], file)
    assert cell == PUBLISHED["DARTS_V2"]


@pytest.mark.parametrize("text", [
    "s3://my-bucket/runs/one", "s3:/my-bucket/runs", "file:///data", "gs:/b", "https://x.org/y.zip",
    "me@host:/runs", "dbfs:/mnt/x", "/work/s3://bucket/x", "abfss://c@a.net/x", "hdfs:\\x",
])  # fmt: skip
def test_an_address_is_no_place(text: str) -> None:
    refusal_of(lambda: place(text, "run_dir"), f"run_dir={text!r}: an address; runs and data lie")


NO_DRIVES = "this system has no drives"


@pytest.mark.parametrize(("text", "elsewhere", "on_windows"), [
    (r"C:\Users\me\runs", NO_DRIVES, ""), ("C:/Users/me", NO_DRIVES, ""),
    (r"\\server\share\runs", NO_DRIVES, ""), (r"runs\one", NO_DRIVES, ""),
    ("ab: b/c", "", "no ':' there"), ("what?", "", "no '?' there"), ("a/b<c", "", "no '<' there"),
    ("runs/nul", "", "no 'nul' there"), ("Com1.txt/x", "", "no 'Com1' there"),
    ("runs./x", "", "no '.' there"), ("connect/aux-head/..", "", ""), ("runs/one", "", ""),
    ("x" * 256, "256 bytes", "256 bytes"), ("é" * 128 + "/x", "256 bytes", "256 bytes"),
])  # fmt: skip
def test_another_systems_path_and_a_name_that_no_disk_takes_are_refused(
    text: str, elsewhere: str, on_windows: str, monkeypatch: Patch
) -> None:
    for system, reason in (("linux", elsewhere), ("win32", on_windows)):
        monkeypatch.setattr(sys, "platform", system)
        if reason:
            refusal_of(lambda: place(text, "data_root"), "data_root=", reason)
        else:
            assert str(place(text, "data_root")) == text


def test_what_may_not_be_entered_or_is_a_file_is_no_place(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    (tmp_path / "file").touch()
    assert place(tmp_path / "file", "path") == tmp_path / "file"
    for below in ("file", "file/x", "file/x/y"):
        refusal_of(lambda below=below: place(tmp_path / below, "run_dir", True), "file is a file")
    (tmp_path / "loop").symlink_to("loop")
    refusal_of(lambda: place(tmp_path / "loop/x", "run_dir"), "cannot be reached (Too many")
    monkeypatch.setattr(os, "access", lambda *_: False)
    refusal_of(lambda: place(tmp_path, "data_root"), f"{tmp_path} may not be read")
    monkeypatch.setattr(os, "stat", failing(DENIED))
    refusal_of(lambda: place(tmp_path / "x", "data_root"), "cannot be reached (Permission denied)")


@pytest.mark.parametrize("variable", ["DARTS_LIB_RUNS", "DARTS_LIB_DATA"])
def test_the_environments_places_are_checked_too(variable: str, monkeypatch: Patch) -> None:
    monkeypatch.setenv(variable, "gs://bucket/x")
    root = {"DARTS_LIB_RUNS": runs_root, "DARTS_LIB_DATA": data_root}[variable]
    refusal_of(root, f"{variable}='gs://bucket/x': an address")


@pytest.mark.parametrize(("module", "words"), [
    ("search", ["s3://b/c.json"]), ("checkpoints", ["evaluate", "gs://b/w.pt"]),
    ("records", ["s3:/b/run"]), ("benchmark", ["--json", "file:///x.json"]),
    ("sweep", ["--folder", "https://x.org/y"]), ("epoch_times", ["--json", r"C:\x.json"]),
])  # fmt: skip
def test_a_command_refuses_an_address_in_one_line(
    module: str, words: list[str], monkeypatch: Patch, capsys: Printed
) -> None:
    monkeypatch.setattr(sys, "argv", [module, *words])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"darts_lib.{module}", run_name="__main__")
    said = capsys.readouterr()
    assert (ended.value.code, said.out, said.err.count("\n")) == (2, "", 1)
    name = "--folder" if module == "sweep" else "path"
    assert said.err.startswith(f"SettingsError: {name}={words[-1]!r}")


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "cp437", "utf-8"])
def test_letters_that_a_terminal_lacks_end_no_command(encoding: str, monkeypatch: Patch) -> None:
    """Windows' files and pipes have an old code page."""
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding))

    def main(_: object) -> None:
        print("class 猫, 2 ± 1 %", flush=True)
        raise SettingsError("no 猫")

    with pytest.raises(SystemExit):
        run_command(main)
    sys.stderr.flush()
    said = sys.stderr.buffer.getvalue().decode(encoding).strip()  # type: ignore[attr-defined]
    assert said == f"SettingsError: no {'猫' if encoding == 'utf-8' else chr(92) + 'u732b'}"


def open_texts(source: str) -> list[str]:
    """Return the calls that read a text past `files.read_text`, or do not say how they write it."""
    odd = []
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        name, said = ast.unparse(call.func), {each.arg for each in call.keywords}
        modes = [each.value for each in call.args[-1:] if isinstance(each, ast.Constant)]
        mode = str(modes[0]) if modes else "r"
        if name.endswith((".read_text", ".write_text")):
            odd.append(name)
        elif name in ("open", "os.fdopen") or (name.endswith(".open") and mode[0] in "rwax"):
            told = "b" in mode or name.startswith(("Image", "tarfile", "gzip", "os.open"))
            odd += [] if told or {"encoding", "newline"} <= said else [name]
    return odd


def test_texts_are_read_in_one_way_and_written_with_encoding_and_ends_of_lines() -> None:
    wrong = "open(x); x.read_text(); open(x, 'w', encoding='utf-8'); x.write_text(y); x.open()"
    right = "open(x, 'rb'); x.open('wb'); open(x, 'w', encoding=e, newline=n); os.open(x, y)"
    assert (len(open_texts(wrong)), open_texts(right)) == (5, [])
    sources = {path: path.read_text(encoding="utf-8") for path in MODULES}
    odd = {path.name: names for path, source in sources.items() if (names := open_texts(source))}
    assert odd == {}
    bare = [path for path, text in sources.items() if "type=Path" in text]
    assert bare == [], "a command's path is checked: type=path_argument"


def picture_batches(root: Path) -> list[torch.Tensor]:
    train, _ = find_pictures(root, 32)
    indices = [torch.arange(4), torch.arange(4, 8)]
    return [batch[0] for batch in read_batches(train, indices, 2, torch.device("cpu"), 9)]


@pytest.mark.deep
def test_workers_that_are_spawned_read_the_same_pictures(tmp_path: Path, capfd: Printed) -> None:
    """As on Windows and Macs, where a worker imports what it needs and is sent its data."""
    root = make(tmp_path)
    usual, before = picture_batches(root), multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    try:
        assert all(map(torch.equal, picture_batches(root), usual))
    finally:
        multiprocessing.set_start_method(before, force=True)


def a_search(path: str) -> None:
    small = KINDS["search"]
    small.go(small.settings(path, epochs=1))


@pytest.mark.deep
def test_a_search_in_a_spawned_process_ends_in_the_same_bits(tmp_path: Path) -> None:
    a_search(str(tmp_path / "here"))
    process = torch.multiprocessing.get_context("spawn").Process(
        target=a_search, args=(str(tmp_path / "spawned"),)
    )
    process.start()
    process.join(300)
    assert process.exitcode == 0
    assert differences(tmp_path / "here", tmp_path / "spawned") == []
