"""The run folder: the truth of a run, and how a run that was killed goes on.

checkpoint.pt             all state after the last finished epoch, settings, data; the one truth
checkpoint.previous.pt    the one before it, should the last be damaged
config.json               kind, version, settings, data for people to read; with the first of them
history.jsonl             scalars and the genotype, a line an epoch   (from the checkpoint)
alphas.npz                alphas by epoch, entry 0 is the start       (from the checkpoint)
genotype.json             the cell after the last finished epoch      (from the checkpoint)
result.json               the final figures; its presence means 'finished'
"""

import contextlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from darts_lib import __version__
from darts_lib.engine.devices import machine
from darts_lib.engine.files import (
    DamagedFileError,
    is_there,
    pack,
    read_text,
    replace,
    unpack,
    write_whole,
)
from darts_lib.engine.ranks import Ranks
from darts_lib.engine.refusals import SettingsError

Row = dict[str, Any]
"""One epoch of the history: numbers, and the genotype as JSON's lists."""


class JsonObject(dict[str, Any]):
    """An object of a JSON file; a name that it lacks is refused, and so is one that comes twice."""

    def __init__(self, file: Path, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.file = file
        if len(self) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"it has {max(names, key=names.count)!r} twice")

    def __missing__(self, name: str) -> Any:
        raise SettingsError(f"{self.file} lacks {name!r}; restore it or name another.")


def write_json(path: Path, content: object) -> None:
    """Write JSON whole or not at all."""
    write_whole(path, (json.dumps(content, indent=1) + "\n").encode())


def read_json(path: Path) -> JsonObject:
    """Read a JSON object; a damaged file is named with its line."""
    text = read_text(path)
    try:
        content = json.loads(text, object_pairs_hook=lambda pairs: JsonObject(path, pairs))
    except (ValueError, RecursionError) as error:
        raise SettingsError(
            f"{path} cannot be read as JSON ({error}); repair it or name another."
        ) from error
    if not isinstance(content, JsonObject):
        raise SettingsError(f"{path} must hold a JSON object, not {type(content).__name__}.")
    return content


def read_history(path: Path) -> list[Row]:
    """Return the history of a run folder, a dict an epoch."""
    with _readable(path / "history.jsonl", "a run folder") as file:
        return [dict(json.loads(line)) for line in read_text(file).splitlines()]


def read_alphas(path: Path) -> dict[str, Tensor]:
    """Return the alphas of a search folder by kind, each `(epochs + 1, edges, primitives)`."""
    with (
        _readable(path / "alphas.npz", "the folder of a search") as file,
        np.load(file, allow_pickle=False) as content,
    ):
        return {kind: torch.from_numpy(content[kind]) for kind in content.files}


@contextlib.contextmanager
def _readable(file: Path, place: str) -> Iterator[Path]:
    """Raise SettingsError where a file is absent, or damaged as what reads it inside finds."""
    if not is_there(file):
        raise SettingsError(
            f"{file.parent} is not {place}: it has no {file.name}{way_back(file.parent)}."
        )
    try:
        yield file
    except Exception as error:  # any reader's complaint means the same: not our file any more
        raise SettingsError(
            f"{file} is damaged ({error}): delete result.json and run it again."
        ) from error


def way_back(path: Path) -> str:
    """Say how a file comes back that is gone from a finished run's folder; else nothing."""
    if not (path / "result.json").is_file():
        return ""
    if any((path / name).is_file() for name in CHECKPOINTS):
        return "; run the same again, which makes it from the checkpoint"
    return ", and no checkpoint to make it from; resume=False makes the whole run anew"


FORMAT = 1
CHECKPOINTS = ("checkpoint.pt", "checkpoint.previous.pt")


@dataclass
class Progress:
    """What a run has so far: its history and, for a search, the alphas after every epoch."""

    history: list[Row] = field(default_factory=list)
    alphas: dict[str, list[Tensor]] = field(default_factory=dict)

    @property
    def epochs(self) -> int:
        """Return the number of finished epochs."""
        return len(self.history)

    def record_alphas(self, alphas: Mapping[str, Tensor]) -> None:
        """Append a copy of the alphas as they are now."""
        for kind, value in alphas.items():
            self.alphas.setdefault(kind, []).append(value.detach().cpu().clone())


@dataclass(frozen=True)
class RunFolder:
    """An open run folder; `opened` makes one. Of several ranks only the first writes."""

    path: Path
    settings: Row = field(default_factory=dict)
    ranks: Ranks = field(default_factory=Ranks.current)
    data: Row = field(default_factory=dict)

    def load(self) -> tuple[dict[str, Any], Progress] | None:
        """Return (state, progress) of the newest good checkpoint, or None; rename bad ones."""
        return self.ranks.after_first(self._load)

    def _load(self) -> tuple[dict[str, Any], Progress] | None:
        for file in filter(is_there, (self.path / name for name in CHECKPOINTS)):
            try:
                content = read_checkpoint(file)
            except DamagedFileError as error:
                replace(file, file.with_name(f"{file.name}.damaged"))
                print(f"{error}; it is now {file.name}.damaged.")
                continue
            progress = Progress(content["history"], content["alphas"])
            if torch.get_num_threads() != content["threads"]:
                print(f"using {content['threads']} threads, as the run began, for the same bits.")
                torch.set_num_threads(content["threads"])
            if self.ranks.first:
                self.write_derived(progress)
            print(f"resuming at epoch {progress.epochs + 1} from {self.path}")
            return content["state"], progress
        if any(self.path.glob("checkpoint*.damaged")):
            print(f"no good checkpoint is left in {self.path}: starting at the first epoch.")
        return None

    def save(self, state: Mapping[str, Any], progress: Progress) -> None:
        """Store everything after an epoch; a kill at any moment leaves a good checkpoint."""
        if not self.ranks.first:
            return
        content = {
            "format": FORMAT,
            "threads": torch.get_num_threads(),
            "history": progress.history,
            "alphas": progress.alphas,
            "settings": self.settings,
            "data": self.data,
            "state": dict(state),
        }
        newest, previous = (self.path / name for name in CHECKPOINTS)
        if not newest.exists() or not (self.path / "config.json").exists():
            told = {"settings": self.settings, "data": self.data}
            write_json(self.path / "config.json", {"format": FORMAT, "library": __version__} | told)
        write_whole(self.path / "checkpoint.next.pt", pack(content))
        if newest.exists():
            replace(newest, previous)
        replace(self.path / "checkpoint.next.pt", newest)
        self.write_derived(progress)

    def write_derived(self, progress: Progress) -> None:
        """Write the files that are made from a checkpoint."""
        lines = "".join(json.dumps(row) + "\n" for row in progress.history)
        write_whole(self.path / "history.jsonl", lines.encode())
        if progress.alphas:
            buffer = io.BytesIO()
            stacked = {kind: torch.stack(steps).numpy() for kind, steps in progress.alphas.items()}
            np.savez(buffer, **stacked)  # type: ignore[arg-type]
            write_whole(self.path / "alphas.npz", buffer.getvalue())
        if progress.history and "genotype" in progress.history[-1]:
            write_json(self.path / "genotype.json", progress.history[-1]["genotype"])

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write `result.json` with the machine and versions; the run is finished."""
        versions = {"machine": machine(), "library": __version__}
        if self.ranks.first:
            write_json(self.path / "result.json", {**result, **versions})
        self.ranks.wait()  # whoever reads it now finds it

    def result(self) -> dict[str, Any] | None:
        """Return the result of a finished run, else None; say so if another version made it."""
        file = self.path / "result.json"
        if not is_there(file):
            return None
        result = read_json(file)
        if result.get("library") != __version__:
            print(f"{self.path} was made by darts_lib {result.get('library')}, not {__version__}.")
        return result


def read_checkpoint(file: Path) -> dict[str, Any]:
    """Read a checkpoint. Raises DamagedFileError; SettingsError for one of another format."""
    content = unpack(file)
    check_format(file, content.get("format"))
    shape = {"history": list, "alphas": dict, "state": dict, "threads": int}
    shape |= {name: dict for name in ("settings", "data") if name in content}  # of older ones: none
    for name, kind in shape.items():
        if not isinstance(content.get(name), kind):
            raise DamagedFileError(
                f"{file} is not a run's checkpoint: it has no {kind.__name__} {name!r}"
            )
    return content


def newest_checkpoint(path: Path) -> Row:
    """Return what the newest checkpoint of a folder that can be read holds, or nothing."""
    for file in filter(is_there, (path / name for name in CHECKPOINTS)):
        with contextlib.suppress(DamagedFileError):
            return read_checkpoint(file)
    return {}


def check_format(file: Path, stored: object) -> None:
    """Raise SettingsError if a file of a run folder is of another format than this version's."""
    if stored != FORMAT:
        age = "a newer" if isinstance(stored, int) and stored > FORMAT else "an older"
        raise SettingsError(
            f"{file} has format {stored!r}, of {age} darts_lib than this one (format {FORMAT}); "
            "use that version, another run_dir, or resume=False to move the run aside."
        )
