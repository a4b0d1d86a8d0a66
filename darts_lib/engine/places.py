"""Where things are: the project, its run folders and its data sets."""

import os
from pathlib import Path


def project_root() -> Path:
    """Return the nearest parent of the current folder with this project's `pyproject.toml`.

    Jupyter runs a notebook in its own folder and papermill in the caller's; both find the same
    root, and so does an installed library's source tree. Elsewhere it is the current folder.
    """
    here = Path.cwd()
    for folder in (here, *here.parents, *Path(__file__).resolve().parents):
        file = folder / "pyproject.toml"
        if file.is_file() and 'name = "darts-lib"' in file.read_text(encoding="utf-8"):
            return folder
    return here


def runs_root() -> Path:
    """Return the folder of run folders: `DARTS_LIB_RUNS`, else `runs` in the project."""
    return Path(os.environ.get("DARTS_LIB_RUNS") or project_root() / "runs")


def data_root() -> Path:
    """Return the folder of data sets: `DARTS_LIB_DATA`, else `data` in the project."""
    return Path(os.environ.get("DARTS_LIB_DATA") or project_root() / "data")
