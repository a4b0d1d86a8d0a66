"""Files that survive: written whole or not at all, read with their checksum, locked by one."""

import codecs
import contextlib
import errno
import io
import math
import os
import pickle
import re
import socket
import stat
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from darts_lib.engine.progress import duration
from darts_lib.engine.refusals import SettingsError, show

MARKS = {
    "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),  # one begins with a mark of UTF-16
    "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}
"""The byte-order marks that editors put before a text that is not UTF-8."""
PART = "darts_lib"  # in the name of a half-written file, so that no other's is swept
PATIENCE = 50  # tenths of a second for who has a file open on Windows, such as a virus scanner


class DamagedFileError(SettingsError):
    """A file that was cut short or changed since it was written."""


def is_there(path: Path) -> bool:
    """Say whether a file is there; refuse what is no file and what the system does not tell."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(f"{path} cannot be read ({reason}); name another.") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
        raise SettingsError(f"{path} is {kind}, not a file; name another.")
    return True


def read_text(path: Path, limit: int = -1) -> str:
    """Return a text, or its first `limit` characters: UTF-8, or what its byte-order mark says.

    Every end of a line is a newline. Raises SettingsError for a file that is no text or no file.
    """
    is_there(path)  # a pipe would be waited for
    try:
        with open(path, "rb") as file:
            start = file.peek(4)
            encoding = next((name for name in MARKS if start.startswith(MARKS[name])), "utf-8-sig")
            with io.TextIOWrapper(file, encoding) as decoded:
                text = decoded.read(limit)
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror}); name another.") from error
    except UnicodeError:
        text = "\0"
    if "\0" in text:  # as in UTF-16 without a mark
        raise SettingsError(f"{path} is not UTF-8 text: save it as UTF-8.")
    return text


def write_whole(path: Path, content: bytes) -> None:
    """Write beside `path`, flush to the disk, and rename: a reader sees the old or the new file."""
    beside = _part_of(path)
    try:
        beside.unlink(missing_ok=True)  # of a writer with our number that was killed
        with open(beside, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        replace(beside, path)
    except OSError as error:
        raise SettingsError(_explain(path, len(content), error)) from error
    finally:  # after Ctrl-C too; nothing is left there once it was renamed
        with contextlib.suppress(OSError):
            beside.unlink()


def replace(source: Path, target: Path) -> None:
    """Rename a file over another. On Windows that waits until nobody has either of them open."""
    for _ in range(PATIENCE if sys.platform == "win32" else 0):
        with contextlib.suppress(PermissionError):
            return os.replace(source, target)
        time.sleep(0.1)
    os.replace(source, target)


def _part_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.{PART}-{os.getpid()}.part")


def check_writable(folder: Path) -> None:
    """Raise SettingsError if nothing can be kept in a folder; `sweep` deletes what this leaves."""
    write_whole(_part_of(folder / "trial"), b"{}")


def check_target(path: Path) -> None:
    """Raise SettingsError if no file can be written there: before the work, not after it."""
    if not path.parent.is_dir():
        raise SettingsError(f"{path} cannot be written: there is no folder {path.parent}; make it.")
    if path.is_dir():
        raise SettingsError(f"{path} cannot be written: it is a folder; name a file in it.")


def sweep(folder: Path) -> None:
    """Delete what writers that were killed left beside their files; call it under a lock."""
    for part in folder.glob(f".*.{PART}-[0-9]*.part"):
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
    is_there(path)
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
        if (kind := kind_of_file(path)) not in (TORCH, ""):
            reason = f"it is {kind}"
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
            os.lseek(file, 0, os.SEEK_SET)
            os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        _lock(file, hold=False)
        os.close(file)


def _acquire(file: int, what: str, wait: float) -> None:
    deadline, told = time.monotonic() + wait, False
    while not _lock(file):
        os.lseek(file, 0, os.SEEK_SET)
        owner = os.read(file, 200).decode(errors="replace") or "another process"
        if time.monotonic() >= deadline:
            raise SettingsError(
                f"{what} is in use by {owner}; wait for it to finish, stop it, or choose another."
            )
        if not told:
            limit = "" if math.isinf(wait) else f", at most {duration(wait)}"
            print(f"{what} is in use by {owner}; waiting for it{limit}.", flush=True)
            told = True
        time.sleep(0.2)


def _lock(file: int, hold: bool = True) -> bool:
    """Take or free the lock of an open file; say whether no other process has it.

    Windows lets nobody read locked bytes, so the one that is locked there lies far behind the
    owner's name. A system or a disk without locks has nothing to hold.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(file, 2**30, os.SEEK_SET)
            msvcrt.locking(file, msvcrt.LK_NBLCK if hold else msvcrt.LK_UNLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB if hold else fcntl.LOCK_UN)
    except ImportError:
        return True
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)
    return True


TORCH, SAFETENSORS, PICTURE = "a file of torch.save", "a safetensors file", "a picture"

KINDS = (
    (rb"version https://(git-lfs|hawser)\.", "a Git LFS pointer of {} bytes: run git lfs pull"),
    (rb"[./]*(git)?/annex/objects/", "a git-annex pointer of {} bytes: run git annex get"),
    (rb"(\xef\xbb\xbf)?\s*<(?i:!doctype|html|head|body)", "a web page, not the file itself"),
    (rb"\x80[\x02-\x05](\x95.{8})?\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19", TORCH),  # before torch 1.6
    (rb"\x80[\x02-\x05]", "a pickle that torch did not write"),
    (rb".{4}\0{4}\{", SAFETENSORS),
    (rb"\x89HDF\r\n", "an HDF5 file, as Keras writes"),
    (rb"\x08[\x03-\x20][\x12\x1a\"(2:B]", "an ONNX file"),
    (rb"\x08\x01\x12|.{4}TFL3", "a TensorFlow model"),
    (rb"\x93NUMPY", "a NumPy array"),
    (rb"\x1f\x8b|BZh\d1AY|\xfd7zXZ|\(\xb5/\xfd|7z\xbc\xaf|Rar!|.{257}ustar", "a packed archive"),
    (rb"%PDF|%!PS", "a PDF or PostScript document"),
    (rb"\x89PNG|\xff\xd8\xff|GIF8[79]a|BM.{4}\0{4}|II\*\0|MM\0\*|P[1-7]\s+[\d#]", PICTURE),
    (rb"RIFF.{4}WEBP|.{4}ftyp(avi|hei|mif|hev)", PICTURE),
    (rb"\0+\Z", "nothing but zeros, as of a copy that was broken off"),
)
"""First bytes of files, and what such a file is, in words that follow 'is'."""


def kind_of_file(path: Path) -> str:
    """Say what a file is by its first bytes, whatever its name; empty for what is not known.

    What could keep a reader waiting for ever, a pipe or a device, is not opened.
    """
    if not os.path.isfile(path):
        other = "a pipe, a socket or a device, not a file" if os.path.exists(path) else "not there"
        return "a folder" if os.path.isdir(path) else other
    try:
        with open(path, "rb") as file:
            start = file.read(1024)
    except OSError as error:
        return f"not readable ({error.strerror})"
    if start.startswith(b"PK"):
        return _kind_of_zip(path)
    for pattern, kind in KINDS:
        if re.match(pattern, start, re.DOTALL):
            return kind.format(os.path.getsize(path))
    utf16 = start[:2] in (b"\xff\xfe", b"\xfe\xff")
    text = start.decode("utf-16" if utf16 else "utf-8", errors="ignore")
    if re.search(r"[\0-\x08\x0e-\x1a]", text):
        return ""
    return f"a text that begins with {show(text[:40])}" if start else "empty"


def _kind_of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names, sizes = archive.namelist(), [entry.file_size for entry in archive.infolist()]
    except Exception:  # any reader's complaint means the same
        return "cut short or damaged, though it begins as a zip archive or a file of torch.save"
    if sum(sizes) > 4 * os.path.getsize(path) + 2**20:  # torch's own are not compressed
        return f"a zip archive that would take {sum(sizes):,} bytes of memory"
    if any(name.endswith("/data.pkl") for name in names):
        script = any(name.endswith("/constants.pkl") for name in names)
        return "a TorchScript program: save the module's state_dict()" if script else TORCH
    return f"a zip archive, but none of torch.save: it holds {show(names[:3])}"
