"""Files written whole or not at all, damaged files recognised, one lock for one process."""

import errno
import fcntl
import os
import socket
import time
from pathlib import Path

import pytest
import torch
from fuzz_tools import Patch, Said, failing, refusal_of
from same_bits import bits
from toy_run import held_elsewhere

from darts_lib.engine.files import DamagedFileError, locked, pack, sweep, unpack, write_whole

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
    for name in (".checkpoint.next.pt.123.part", "my.part", ".keep"):
        (runs_root / name).write_bytes(b"x")
    sweep(runs_root)
    assert {path.name for path in runs_root.iterdir()} == {"my.part", ".keep"}


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
