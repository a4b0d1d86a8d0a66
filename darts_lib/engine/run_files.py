"""The files of a run folder, written whole and read with care."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from darts_lib.engine.files import write_whole
from darts_lib.engine.refusals import SettingsError

Row = dict[str, Any]
"""One epoch of the history: numbers, and the genotype as JSON's lists."""


def write_json(path: Path, content: object) -> None:
    """Write JSON whole or not at all."""
    write_whole(path, (json.dumps(content, indent=1) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; a damaged file is named with its line."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror}); name another.") from error
    except (ValueError, RecursionError) as error:
        raise SettingsError(
            f"{path} cannot be read as JSON ({error}); repair it or name another."
        ) from error
    if not isinstance(content, dict):
        raise SettingsError(f"{path} must hold a JSON object, not {type(content).__name__}.")
    return content


def read_history(path: Path) -> list[Row]:
    """Return the history of a run folder, a dict an epoch."""
    file = path / "history.jsonl"
    if not file.is_file():
        raise SettingsError(f"{path} is not a run folder: it has no history.jsonl.")
    try:
        return [dict(json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]
    except (ValueError, TypeError, RecursionError) as error:
        raise _damaged(file, error) from error


def read_alphas(path: Path) -> dict[str, Tensor]:
    """Return the alphas of a search folder by kind, each `(epochs + 1, edges, primitives)`."""
    file = path / "alphas.npz"
    if not file.is_file():
        raise SettingsError(f"{path} is not the folder of a search: it has no alphas.npz.")
    try:
        with np.load(file, allow_pickle=False) as stored:
            return {kind: torch.from_numpy(stored[kind]) for kind in stored.files}
    except Exception as error:  # any reader's complaint means the same: not our file any more
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> SettingsError:
    return SettingsError(f"{file} is damaged ({error}): delete result.json and run it again.")
