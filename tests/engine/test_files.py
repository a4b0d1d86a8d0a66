"""Files written whole or not at all, damaged files recognised, one lock for one process."""

import errno
import fcntl
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from fuzz_tools import refusal_of
from same_bits import bits

from darts_lib.engine.files import DamagedFileError, locked, pack, sweep, unpack, write_whole

STATE = {"weights": torch.arange(6.0).view(2, 3), "epoch": 3, "names": ["a", "b"]}


def failing(number: int) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


# Writing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(("number", "words"), [
    (errno.ENOSPC, "disk is full or a size limit was met (2.5 MB needed)"),
    (errno.EDQUOT, "untouched; free some space and run the same command again"),
    (errno.EFBIG, "size limit was met (2.5 MB needed)"),
    (errno.EROFS, "read-only"),
    (errno.EIO, os.strerror(errno.EIO)),
])  # fmt: skip
def test_a_disk_that_refuses_is_named_and_the_old_file_stays(
    call: str, number: int, words: str, runs_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = runs_root / "checkpoint.pt"
    write_whole(file, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(number))
        several = (f"{file} was not written", words, "another run_dir.")
        refusal_of(lambda: write_whole(file, bytes(2_500_000)), *several)
    assert [path.read_bytes() for path in runs_root.iterdir()] == [b"old"]
    write_whole(file, b"new")
    assert [path.read_bytes() for path in runs_root.iterdir()] == [b"new"]


def test_ctrl_c_while_writing_leaves_the_old_file_and_no_part(
    runs_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    file = runs_root / "checkpoint.pt"
    write_whole(file, b"old")
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(runs_root.iterdir()) == [file]


def test_what_a_killed_writer_left_is_swept_and_nothing_else(runs_root: Path) -> None:
    for name in (".checkpoint.next.pt.123.part", "my.part", ".keep"):
        (runs_root / name).write_bytes(b"x")
    sweep(runs_root)
    assert {path.name for path in runs_root.iterdir()} == {"my.part", ".keep"}


# Reading ----------------------------------------------------------------------------------------


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    file = tmp_path / "checkpoint.pt"
    file.write_bytes(pack(STATE))
    return file


def test_what_was_packed_is_read_back(packed: Path) -> None:
    assert bits(unpack(packed)) == bits(STATE)


def test_a_file_cut_short_anywhere_is_damaged(packed: Path) -> None:
    whole = packed.read_bytes()
    for length in [0, 1, 100, len(whole) // 2, len(whole) - 100, len(whole) - 1]:
        packed.write_bytes(whole[:length])
        with pytest.raises(DamagedFileError, match=rf"checkpoint\.pt \({length} bytes\)"):
            unpack(packed)


def test_a_flipped_bit_is_noticed_or_without_effect(packed: Path) -> None:
    whole, noticed = packed.read_bytes(), 0
    positions = range(0, len(whole), 7)
    for position in positions:
        changed = bytearray(whole)
        changed[position] ^= 1 << (position % 8)
        packed.write_bytes(changed)
        try:
            state = unpack(packed)
        except DamagedFileError:
            noticed += 1
        else:
            assert bits(state) == bits(STATE), f"a flip at byte {position} went unnoticed"
    assert noticed > len(positions) // 10


class Odd:
    """Stands for code that a stranger's file could run."""


@pytest.mark.parametrize("content", [Odd(), [1, 2]], ids=["an object", "a list"])
def test_only_a_dict_of_plain_data_is_taken(content: object, tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    file.write_bytes(pack(content))
    with pytest.raises(DamagedFileError, match=r"checkpoint\.pt"):
        unpack(file)


# Locking ----------------------------------------------------------------------------------------


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / ".thing.lock"


@pytest.fixture
def owner(lock: Path) -> Iterator[BaseProcess]:
    """Return another process, which holds a lock until it is killed."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()

    def hold() -> None:
        with locked(lock, "thing"):
            ready.set()
            signal.pause()

    process = context.Process(target=hold, daemon=True)
    process.start()
    assert ready.wait(60)
    yield process
    process.kill()
    process.join(60)


def test_the_second_process_waits_fifteen_seconds_and_is_refused_naming_the_first(
    owner: BaseProcess, lock: Path, monkeypatch: pytest.MonkeyPatch, said: Callable[[], str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: clock.append(clock.pop() + seconds))
    message = refusal_of(lambda: locked(lock, "thing").__enter__())
    assert 15 <= clock[0] < 16
    name = f"thing is in use by process {owner.pid} on {socket.gethostname()}"
    assert said() == f"{name}; waiting for it, at most 15 s.\n"
    assert message == f"{name}; wait for it to finish, stop it, or choose another."


def test_a_killed_owner_leaves_no_stale_lock(
    owner: BaseProcess, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second process waits for the first, and goes on."""
    monkeypatch.setattr(time, "sleep", lambda _: owner.kill() or owner.join(60))  # type: ignore[func-returns-value]
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
    module: object, name: str, number: int, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    went_on = False
    with monkeypatch.context() as patch:
        patch.setattr(module, name, failing(number))
        with locked(lock, "thing", wait=0):
            went_on = True
    assert went_on
