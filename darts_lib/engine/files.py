"""Files that survive: written whole or not at all, read with their checksum, locked by one."""

import contextlib
import errno
import io
import math
import os
import pickle
import socket
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from darts_lib.engine.progress import duration
from darts_lib.engine.refusals import SettingsError


class DamagedFileError(Exception):
    """A file that was cut short or changed since it was written."""


def write_whole(path: Path, content: bytes) -> None:
    """Write beside `path`, flush to the disk, and rename: a reader sees the old or the new file."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise SettingsError(_explain(path, len(content), error)) from error
    finally:  # after Ctrl-C too; nothing is left there once it was renamed
        with contextlib.suppress(OSError):
            beside.unlink()


def check_target(path: Path) -> None:
    """Raise SettingsError if no file can be written there: before the work, not after it."""
    if not path.parent.is_dir():
        raise SettingsError(f"{path} cannot be written: there is no folder {path.parent}; make it.")
    if path.is_dir():
        raise SettingsError(f"{path} cannot be written: it is a folder; name a file in it.")


def sweep(folder: Path) -> None:
    """Delete what writers that were killed left beside their files; call it under a lock."""
    for part in folder.glob(".*.part"):
        with contextlib.suppress(OSError):
            part.unlink()


def _explain(path: Path, size: int, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return (
            f"{path} was not written: the disk is full or a size limit was met ({size / 1e6:.1f} MB"
            " needed). The file as it was before is untouched; free some space and run the same "
            "command again, or give another run_dir."
        )
    if error.errno == errno.EROFS:
        return f"{path} was not written: the file system is read-only; give another run_dir."
    return f"{path} was not written ({error.strerror}); give another run_dir."


def pack(state: object) -> bytes:
    """Serialise tensors, numbers, strings, lists and dicts with `torch.save`."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def unpack(path: Path) -> dict[str, Any]:
    """Read what `pack` wrote, after checking every checksum; only plain data are ever loaded."""
    try:
        content = path.read_bytes()
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            damaged = archive.testzip()
        if damaged:
            raise DamagedFileError(f"{path}: the checksum of its part {damaged} is wrong")
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except DamagedFileError:
        raise
    except Exception as error:  # any reader's complaint means the same: not our file any more
        size, reason = path.stat().st_size, str(error).strip().partition("\n")[0]
        if isinstance(error, pickle.UnpicklingError):  # not torch's advice, which is to trust it
            reason = "it holds more than plain data, which could run code"
        raise DamagedFileError(f"{path} ({size} bytes) cannot be read: {reason}") from error
    if not isinstance(state, dict):
        raise DamagedFileError(f"{path} holds no checkpoint")
    return state


@contextlib.contextmanager
def locked(path: Path, what: str, wait: float = 15.0) -> Iterator[None]:
    """Hold the lock file `path`; wait up to `wait` seconds for another process, saying so.

    The system frees the lock when its owner dies, so a lock is never stale. A notebook's kernel
    lives on for a second or two after its papermill was killed, hence the wait. On a read-only
    disk nobody can write, so there is nothing to lock. Raises `SettingsError` after the wait.
    """
    try:  # not through a link that somebody put there: the file is written to
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        file = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        yield
        return
    try:
        _acquire(file, what, wait)
        with contextlib.suppress(OSError):  # a full disk: the lock holds without its owner's name
            os.ftruncate(file, 0)
            os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        os.close(file)


def _acquire(file: int, what: str, wait: float) -> None:
    deadline, told = time.monotonic() + wait, False
    while not _try_lock(file):
        owner = os.pread(file, 200, 0).decode(errors="replace") or "another process"
        if time.monotonic() >= deadline:
            raise SettingsError(
                f"{what} is in use by {owner}; wait for it to finish, stop it, or choose another."
            )
        if not told:
            limit = "" if math.isinf(wait) else f", at most {duration(wait)}"
            print(f"{what} is in use by {owner}; waiting for it{limit}.", flush=True)
            told = True
        time.sleep(0.2)


def _try_lock(file: int) -> bool:
    if sys.platform == "win32":
        return True  # no such locks there
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:  # anything else: a file system without locks, so nothing to hold
        return error.errno not in (errno.EAGAIN, errno.EACCES)
    return True
