"""Where things lie: what may name a folder or a file of this machine."""

import ntpath
import os
import re
import stat
import sys
from pathlib import Path

from darts_lib.engine.refusals import SettingsError, show

ADDRESS = re.compile(r".*://|[^/\\]{2,}:[/\\]")  # a Path makes s3:/ of s3://
NOT_ON_WINDOWS = re.compile(
    r"""[<>"|?*:]|(?<![^/\\])(con|prn|aux|nul|com\d|lpt\d)(?![^/\\.])|(?<![/\\.])[ .](?=[/\\]|$)""",
    re.IGNORECASE,
)
"""Characters that no name has there, names of devices, and a blank or dot at a name's end."""


def place(given: str | Path, what: str, folder: bool = False) -> Path:
    """Return the path that the setting or argument `what` names; nothing need be there yet.

    Raises SettingsError for an address such as `s3://...`, another system's path, a name that no
    disk takes, a file among the folders above it (or, with `folder`, in its place), and what may
    not be entered.
    """
    text, reason = str(given), ""
    path = Path(os.path.expanduser(text))
    if ADDRESS.match(text):
        reason = "an address; runs and data lie on a disk, copy them from or to there"
    elif sys.platform == "win32" and (odd := NOT_ON_WINDOWS.search(ntpath.splitdrive(text)[1])):
        reason = f"Windows allows no {odd[0]!r} there"
    elif sys.platform != "win32" and ("\\" in text or re.match(r"[A-Za-z]:/", text)):
        reason = "this system has no drives and writes / between folders"
    elif (longest := max(len(os.fsencode(name)) for name in ("", *path.parts))) > 255:
        reason = f"a name in it has {longest} bytes, 255 are the most"
    if reason := reason or _on_disk(path, folder):
        raise SettingsError(f"{what}={show(text)}: {reason}; name another place.")
    return path


def _on_disk(path: Path, folder: bool) -> str:
    """Say why a path cannot be used, by the nearest part of it that is there."""
    for part in (path, *path.parents):
        try:
            mode = os.stat(part).st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            return f"{part} cannot be reached ({error.strerror})"
        if not stat.S_ISDIR(mode):
            return f"{part} is a file, not a folder" if folder or part != path else ""
        may = os.access(part, os.R_OK | os.X_OK if part == path else os.X_OK)
        return "" if may else f"{part} may not be read"
    return ""
