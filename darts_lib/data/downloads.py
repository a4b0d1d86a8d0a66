"""Data files that are checked before use, and repaired or downloaded where they are not complete.

Where all files are sound nothing is written and no network is touched. Where they are not, one
process works under a lock and the others wait. Nothing is ever deleted: a damaged archive is
moved aside, and other damaged files are named, with what to do about them.
"""

import errno
import gzip
import http.client
import math
import posixpath
import shutil
import socket
import tarfile
import zlib
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from torchvision.datasets import utils

from darts_lib.engine.files import kind_of_file, locked
from darts_lib.engine.progress import TransferLines, watched
from darts_lib.engine.refusals import SettingsError, one_line

TIMEOUT = 60  # seconds without a byte after which a download counts as failed
OTHER_WAYS = "name another folder as data_root, or take the data set 'digits', which needs no files"
CANNOT_WRITE = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True)
class DataFile:
    """A file of a data set: path below the data folder, and what is known of a sound copy."""

    path: str
    md5: str | None = None
    bytes: int | None = None

    def fault(self, root: Path) -> str:
        """Say what is wrong: missing, or its size and what it is. Empty for a sound file."""
        path = root / self.path
        if not path.is_file():
            return f"{self.path} is missing"
        size = path.stat().st_size
        if self.bytes in (None, size) and utils.check_integrity(path, self.md5):
            return ""
        kind = kind_of_file(path) or "of no known kind"
        return f"{self.path} fails its check ({size:,} bytes, {kind})"


@dataclass(frozen=True)
class Archive:
    """A file to download, of about so many megabytes, and the files that come out of it.

    A file that is used as it is has itself as its only member.
    """

    url: str
    file: DataFile
    members: tuple[DataFile, ...]
    megabytes: int

    def faults(self, root: Path) -> list[DataFile]:
        """Return the members that are missing or damaged."""
        return [member for member in self.members if member.fault(root)]


def prepare(dataset: str, root: Path, archives: Sequence[Archive]) -> None:
    """Make sure that a data set is complete below `root`; write only if it is not.

    Raises SettingsError, in one line with a way out, when files are damaged and no sound archive
    is there, when a download fails and when the folder cannot be written.
    """
    if not any(archive.faults(root) for archive in archives):
        return
    _refuse_other_folder(dataset, root, archives)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(root / f".{dataset}.lock", f"{dataset} in {root}", wait=math.inf):
            for archive in archives:
                if archive.faults(root):  # again: another process may have done the work
                    _complete(dataset, root, archive)
    except OSError as error:
        raise SettingsError(
            f"{dataset} is not complete in {root}, and it cannot be completed there "
            f"({_reason(error)}): make the folder writable or make room, {OTHER_WAYS}."
        ) from error


def _refuse_other_folder(dataset: str, root: Path, archives: Sequence[Archive]) -> None:
    """Raise SettingsError if a set, absent from `root`, lies above, below or in another version."""
    paths = [member.path for archive in archives for member in archive.members]
    paths += [archive.file.path for archive in archives]
    if any((root / path).exists() for path in paths):
        return
    below = [root, *(path for path in sorted(root.glob("*")) if path.is_dir())]
    for path in paths:
        parts = path.split("/")
        for count in range(1, len(parts)):
            if (root / "/".join(parts[count:])).is_file():
                meant = Path(*root.parts[:-count]) / path
                where = f"data_root is {root.parents[count - 1]}"
                if not meant.is_file():
                    where = f"name its folders as in DATA_ROOT/{path}"
                raise SettingsError(f"{root} is the folder of {dataset} itself: {where}.")
        for folder in below:
            if (folder / path).is_file():
                raise SettingsError(f"{dataset} is in {folder}: data_root is that, not {root}.")
            for ending in (".bin", ".mat"):
                if (other := folder / f"{Path(path).name}{ending}").is_file():
                    raise SettingsError(
                        f"{other} is of {dataset} in another version than Python's, which is "
                        f"read: put {paths[-1]} into {root}, or {OTHER_WAYS}."
                    )


def _complete(dataset: str, root: Path, archive: Archive) -> None:
    """Unpack an archive, after downloading it if it and its members are wholly absent."""
    path = root / archive.file.path
    if fault := archive.file.fault(root):
        _refuse_damaged(dataset, root, archive, fault)
        _download(dataset, root, archive)
    if archive.file not in archive.members:
        print(f"Unpacking {path}", flush=True)
        try:
            _unpack(path, {root / member.path for member in archive.faults(root)})
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise SettingsError(
                f"{path} cannot be unpacked ({_reason(error)}): put a sound one there, or "
                f"{OTHER_WAYS}."
            ) from error
    if problems := "; ".join(member.fault(root) for member in archive.faults(root)):
        raise SettingsError(f"{dataset} in {root} was unpacked, but {problems}: check the disk.")


def _unpack(path: Path, members: Set[Path]) -> None:
    """Take the wanted members out of a `.tar.gz`, or the only one out of a `.gz`.

    Nothing else is written: not what has another name or leads elsewhere, no link and no device.
    """
    if path.name.endswith(".tar.gz"):
        with tarfile.open(path) as archive:
            for entry in archive:
                member = path.parent / posixpath.normpath(entry.name)
                file = archive.extractfile(entry) if entry.isreg() else None
                if file and member in members:
                    _write(file, member)
    else:
        (member,) = members
        with gzip.open(path) as content:
            _write(content, member)


def _write(content: IO[bytes] | gzip.GzipFile, path: Path) -> None:
    """Write beside `path` and rename: a reader sees it whole or not at all, or as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            shutil.copyfileobj(content, file)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _refuse_damaged(dataset: str, root: Path, archive: Archive, fault: str) -> None:
    """Raise SettingsError if a damaged archive or a part of its members lies there."""
    path, problems = root / archive.file.path, []
    way_out = "run again to download it"
    if path.exists():
        problems.append(f"{fault} and is now {path.replace(f'{path}.bad').name}")
    if any((root / member.path).exists() for member in archive.members):
        problems += [member.fault(root) for member in archive.faults(root)]
        way_out = "move its unpacked files away and run again to download them"
    if problems:
        raise SettingsError(
            f"{dataset} in {root} is damaged: {'; '.join(problems)}. Put a sound {path.name} into "
            f"{path.parent}, or {way_out} (about {archive.megabytes} MB), or {OTHER_WAYS}."
        )


def _download(dataset: str, root: Path, archive: Archive) -> None:
    """Fetch an archive under another name, check it and rename it: half of one is never taken."""
    path = root / archive.file.path
    part = path.with_name(f"{path.name}.part")
    what = f"{path.name}, about {archive.megabytes} MB, from {archive.url} to {path.parent}"
    print(f"Downloading {dataset}: {what}", flush=True)
    try:
        with _patient():
            utils.download_url(archive.url, str(part.parent), part.name, archive.file.md5)
        part.replace(path)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.errno in CANNOT_WRITE:
            raise
        wrong = isinstance(error, RuntimeError) and part.exists()
        got = f"; what came is now {part.replace(f'{part}.bad').name}" if wrong else ""
        raise SettingsError(
            f"{dataset} is not in {root} and the download failed ({_reason(error)}{got}): "
            f"put {path.name} into {path.parent} by hand, {OTHER_WAYS}."
        ) from error


@contextmanager
def _patient() -> Iterator[None]:
    """Give torchvision's download what it lacks: a timeout, and lines in place of a bar in logs."""
    timeout, bar = socket.getdefaulttimeout(), utils.tqdm
    socket.setdefaulttimeout(TIMEOUT)
    utils.tqdm = bar if watched() else TransferLines
    try:
        yield
    finally:
        socket.setdefaulttimeout(timeout)
        utils.tqdm = bar


def _reason(error: Exception) -> str:
    """Return what went wrong, in one line, without the system's number and the path."""
    return str(getattr(error, "strerror", None) or one_line(error)).rstrip(".")
