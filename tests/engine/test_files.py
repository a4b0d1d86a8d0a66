"""Files written whole or not at all, damaged files recognised, one lock for one process."""

import codecs
import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fuzz_tools import Patch, Said, failing, one_line, refusal_of
from picture_tools import make
from same_bits import bits
from toy_run import held_elsewhere

from darts_lib.data.imagenet_data import find_pictures
from darts_lib.data.text import load_text
from darts_lib.engine.command_line import read_config
from darts_lib.engine.files import (
    DamagedFileError,
    locked,
    pack,
    read_text,
    sweep,
    unpack,
    write_whole,
)
from darts_lib.engine.folder import read_alphas, read_history
from darts_lib.engine.refusals import SettingsError
from darts_lib.formats.cell_choice import find_genotype
from darts_lib.formats.weight_files import read_weights
from darts_lib.genotype import GenotypeError
from darts_lib.search import SearchConfig
from darts_lib.tools.markdown import put_between_marks

STATE = {"weights": torch.arange(6.0).view(2, 3), "epoch": 3, "names": ["a", "b"]}


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(("number", "words"), [
    (errno.ENOSPC, "disk is full or a size limit was met (2.5 MB needed)"),
    (errno.EDQUOT, "untouched; free some space and run the same command again"),
    (errno.EFBIG, "size limit was met (2.5 MB needed)"),
    (errno.EROFS, "read-only"),
    (errno.EIO, os.strerror(errno.EIO)),
])  # fmt: skip
def test_a_disk_that_refuses_is_named_and_the_old_file_stays(
    call: str, number: int, words: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    file = tmp_path / "run" / "checkpoint.pt"
    file.parent.mkdir()
    write_whole(file, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(OSError(number, os.strerror(number))))
        several = (f"{file} was not written", words, "another run_dir.")
        refusal_of(lambda: write_whole(file, bytes(2_500_000)), *several)
        patch.setattr(os, call, failing(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            write_whole(file, b"half")
    assert [path.read_bytes() for path in file.parent.iterdir()] == [b"old"]
    write_whole(file, b"new")
    assert [path.read_bytes() for path in file.parent.iterdir()] == [b"new"]


def test_what_a_killed_writer_left_is_swept_and_nothing_else(runs_root: Path) -> None:
    mine = {"my.part", ".keep", ".mine.part", ".mine.123.part", ".a.darts_lib-x.part"}
    for name in (".checkpoint.next.pt.darts_lib-123.part", *mine):
        (runs_root / name).write_bytes(b"x")
    sweep(runs_root)
    assert {path.name for path in runs_root.iterdir()} == mine


TEXT = "a é 猫\nb\n"
SMALL_TEXTS: dict[str, Callable[[Path], object]] = {
    "settings": lambda file: read_config(file, SearchConfig),
    "a cell": lambda file: find_genotype(str(file)),
    "history": lambda file: read_history(file.parent),
    "words": lambda file: load_text("folder", file.parent),
    "labels": lambda file: find_pictures(file.parent),
    "a page": lambda file: put_between_marks(file, "x", "y"),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_text_is_read_with_any_mark_and_any_ends_of_lines(
    encoding: str, end: str, tmp_path: Path
) -> None:
    (file := tmp_path / "a").write_bytes(TEXT.replace("\n", end).encode(encoding))
    assert (read_text(file), read_text(file, 5)) == (TEXT, TEXT[:5])
    swapped = {"utf-16": codecs.BOM_UTF16_BE, "utf-32": codecs.BOM_UTF32_BE}
    if encoding in swapped:
        file.write_bytes(swapped[encoding] + TEXT.encode(f"{encoding}-be"))
        assert read_text(file) == TEXT
    file.write_bytes("".encode(encoding))
    assert read_text(file) == ""


@pytest.mark.parametrize("content", [
    "caf\xe9".encode("latin-1"), "é".encode("cp437"), "日本".encode("shift-jis"), b"a\0b",
    "{}".encode("utf-16-le"), "{}".encode("utf-32-be"), codecs.BOM_UTF16_LE + b"a", b"\x93\xfa",
])  # fmt: skip
def test_what_is_no_utf8_is_refused_wherever_it_stands(content: bytes, tmp_path: Path) -> None:
    make(tmp_path, flat=True)
    for name in ("a", "history.jsonl", "train.txt", "val_labels.txt"):
        (tmp_path / name).write_bytes(content)
    for what, read in SMALL_TEXTS.items():
        name = {"history": "history.jsonl", "words": "train.txt", "labels": "val_labels.txt"}
        with pytest.raises((SettingsError, GenotypeError)) as caught:
            read(tmp_path / name.get(what, "a"))
        one_line(caught.value, "is not UTF-8 text: save it as UTF-8", name.get(what, "a"))


def of_a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound, contextlib.chdir(path.parent):
        bound.bind(path.name)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", [os.mkfifo, of_a_socket, lambda path: path.symlink_to(os.devnull)])
def test_what_is_no_file_is_refused_and_not_waited_for(
    make: Callable[[Path], object], tmp_path: Path
) -> None:
    readers = {
        "config.json": lambda path: read_config(path, SearchConfig),
        "mine.json": lambda path: read_config(path, SearchConfig),
        "history.jsonl": lambda path: read_history(path.parent),
        "alphas.npz": lambda path: read_alphas(path.parent),
        "checkpoint.pt": lambda path: unpack(path),
        "weights.pt": read_weights,
        "train.txt": lambda path: load_text("folder", path.parent),
    }
    for name, read in readers.items():
        make(tmp_path / name)
        refusal_of(lambda read=read, name=name: read(tmp_path / name), name, "not a file")
    refusal_of(lambda: read_text(tmp_path), "is a folder, not a file")
    refusal_of(lambda: read_text(tmp_path / ("x" * 300)), "cannot be read (File name too long)")


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    file = tmp_path / "checkpoint.pt"
    file.write_bytes(pack(STATE))
    return file


def test_a_file_cut_short_anywhere_is_damaged(packed: Path) -> None:
    whole = packed.read_bytes()
    for length in [0, 1, 100, len(whole) // 2, len(whole) - 100, len(whole) - 1]:
        packed.write_bytes(whole[:length])
        with pytest.raises(DamagedFileError, match=rf"checkpoint\.pt \({length} bytes\)"):
            unpack(packed)


def test_a_flipped_bit_is_noticed_or_without_effect(packed: Path) -> None:
    assert bits(unpack(packed)) == bits(STATE)
    whole, noticed = packed.read_bytes(), 0
    positions = range(0, len(whole), 7)
    for position in positions:
        changed = bytearray(whole)
        changed[position] ^= 1 << (position % 8)
        packed.write_bytes(changed)
        try:
            assert bits(unpack(packed)) == bits(STATE), f"at byte {position} it went unnoticed"
        except DamagedFileError:
            noticed += 1
    assert noticed > len(positions) // 10


class Odd:
    """Stands for code that a stranger's file could run."""


@pytest.mark.parametrize("content", [Odd(), [1, 2]], ids=["an object", "a list"])
def test_only_a_dict_of_plain_data_is_taken(content: object, packed: Path) -> None:
    packed.write_bytes(pack(content))
    with pytest.raises(DamagedFileError, match=r"checkpoint\.pt"):
        unpack(packed)


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / ".thing.lock"


def test_the_second_process_waits_fifteen_seconds_and_is_refused_naming_the_first(
    lock: Path, monkeypatch: Patch, said: Said
) -> None:
    clock = [0.0]
    with held_elsewhere(lambda: locked(lock, "thing")) as owner:
        monkeypatch.setattr(time, "monotonic", lambda: clock[0])
        monkeypatch.setattr(time, "sleep", lambda seconds: clock.append(clock.pop() + seconds))
        message = refusal_of(lambda: locked(lock, "thing").__enter__())
    assert 15 <= clock[0] < 16
    name = f"thing is in use by process {owner.pid} on {socket.gethostname()}"
    assert said() == f"{name}; waiting for it, at most 15 s.\n"
    assert message == f"{name}; wait for it to finish, stop it, or choose another."


def test_a_killed_owner_leaves_no_stale_lock(lock: Path, monkeypatch: Patch) -> None:
    """The second process waits for the first, and goes on."""
    with held_elsewhere(lambda: locked(lock, "thing")) as owner:
        monkeypatch.setattr(time, "sleep", lambda _: owner.kill() or owner.join(60))
        with locked(lock, "thing", wait=60):
            assert f"process {os.getpid()} on " in lock.read_text()


def test_a_lock_is_free_again_afterwards_even_after_an_error(lock: Path) -> None:
    with pytest.raises(KeyError), locked(lock, "thing", wait=0):
        raise KeyError
    with locked(lock, "thing", wait=0):
        pass


@pytest.mark.parametrize(("module", "name", "number"), [
    (os, "open", errno.EROFS),  # nobody can write there, so nobody need be kept out
    (os, "ftruncate", errno.ENOSPC),  # the owner's name does not fit, the lock holds
    (fcntl, "flock", errno.ENOLCK),  # a file system without locks
])  # fmt: skip
def test_a_disk_that_refuses_the_lock_file_does_not_stop_the_run(
    module: object, name: str, number: int, lock: Path, monkeypatch: Patch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, name, failing(OSError(number, os.strerror(number))))
        with pytest.raises(KeyError, match="went on"), locked(lock, "thing", wait=0):
            raise KeyError("went on")
