"""The run folder: the truth of a run, and how a run that was killed goes on.

config.json               kind, library version, settings
checkpoint.pt             all state after the last finished epoch; the one truth
checkpoint.previous.pt    the one before it, should the last be damaged
history.jsonl             scalars and the genotype, a line an epoch   (from the checkpoint)
alphas.npz                alphas by epoch, entry 0 is the start       (from the checkpoint)
genotype.json             the cell after the last finished epoch      (from the checkpoint)
result.json               the final figures; its presence means 'finished'
"""

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from darts_lib import __version__
from darts_lib.acceleration import warn_of_unused_gpu
from darts_lib.determinism import deterministic_algorithms
from darts_lib.devices import machine, resolve_device
from darts_lib.files import DamagedFileError, locked, pack, sweep, unpack, write_whole
from darts_lib.places import runs_root
from darts_lib.ranks import Ranks
from darts_lib.refusals import SettingsError
from darts_lib.run_end import tidy_end
from darts_lib.run_files import Row, read_json, write_json
from darts_lib.settings import RunConfig

FORMAT = 1
Config = TypeVar("Config", bound=RunConfig)
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
    """An open run folder; make one with `opened`. Of several ranks only the first writes."""

    path: Path
    ranks: Ranks = field(default_factory=Ranks.current)

    def load(self) -> tuple[dict[str, Any], Progress] | None:
        """Return (state, progress) of the newest good checkpoint, or None; rename bad ones."""
        return self.ranks.after_first(self._load)

    def _load(self) -> tuple[dict[str, Any], Progress] | None:
        for file in filter(Path.exists, (self.path / name for name in CHECKPOINTS)):
            try:
                content = unpack(file)
            except DamagedFileError as error:
                file.replace(f"{file}.damaged")
                print(f"{error}; it is now {file.name}.damaged.")
            else:
                _check_format(file, content.get("format"))
                return self._resume(content)
        if any(self.path.glob("checkpoint*.damaged")):
            print(f"no good checkpoint is left in {self.path}: starting at the first epoch.")
        return None

    def _resume(self, content: Mapping[str, Any]) -> tuple[dict[str, Any], Progress]:
        progress = Progress(list(content["history"]), dict(content["alphas"]))
        if torch.get_num_threads() != content["threads"]:
            print(f"using {content['threads']} threads, as the run began, for the same bits.")
            torch.set_num_threads(content["threads"])
        if self.ranks.first:
            self._write_derived(progress)
        print(f"resuming at epoch {progress.epochs + 1} from {self.path}")
        return content["state"], progress

    def save(self, state: Mapping[str, Any], progress: Progress) -> None:
        """Store everything after an epoch; a kill at any moment leaves a good checkpoint."""
        if not self.ranks.first:
            return
        content = {
            "format": FORMAT,
            "threads": torch.get_num_threads(),
            "history": progress.history,
            "alphas": progress.alphas,
            "state": dict(state),
        }
        newest, previous = (self.path / name for name in CHECKPOINTS)
        write_whole(self.path / "checkpoint.next.pt", pack(content))
        if newest.exists():
            os.replace(newest, previous)
        os.replace(self.path / "checkpoint.next.pt", newest)
        self._write_derived(progress)

    def _write_derived(self, progress: Progress) -> None:
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
        if not file.exists():
            return None
        result = read_json(file)
        if result.get("library") != __version__:
            print(f"{self.path} was made by darts_lib {result.get('library')}, not {__version__}.")
        return result


@contextlib.contextmanager
def opened(config: RunConfig, kind: str) -> Iterator[RunFolder]:
    """Open the run folder of `config` for one process; make it, or check that it is the same run.

    Raises `SettingsError` if the folder is in use, of another kind or format, or was made with
    other settings. `resume=False` moves an earlier run aside, never deletes it. Of several ranks
    the first opens it for all. With `deterministic` torch is so while the folder is open.
    """
    path = Path(config.run_dir).expanduser() if config.run_dir else default_folder(config, kind)
    path = path.resolve()  # one folder has one name, and so one lock
    ranks, device = Ranks.current(), resolve_device(config.device)
    with contextlib.ExitStack() as stack:
        stack.enter_context(tidy_end(path))
        stack.enter_context(deterministic_algorithms(config.deterministic, device))
        if not ranks.first:
            ranks.wait()
            yield RunFolder(path)
            return
        try:
            path.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(path.parent / f".{path.name}.lock", f"run folder {path}"))
            if not config.resume:
                _move_aside(path)
        except OSError as error:
            raise SettingsError(
                f"run_dir {path} cannot be used ({error.strerror}); give another -p run_dir."
            ) from error
        sweep(path)
        _claim(path, config, kind)
        warn_of_unused_gpu(config.device)
        ranks.wait()
        yield RunFolder(path)


def stored_config(path: Path, kind: type[Config], places: RunConfig | None = None) -> Config:
    """Return the settings that a run folder was made with.

    `places` may give another `data_root` or `device` than this machine's own. The folder itself
    names no place: neither one to read or write, nor a file with its cell.
    """
    file = path / "config.json"
    stored, left_out = read_json(file).get("settings"), {"kind", *kind.NO_EFFECT_ON_RESULT}
    if not isinstance(stored, dict):
        raise SettingsError(f"{file} holds no settings; name another run folder.")
    settings = {name: value for name, value in stored.items() if name not in left_out}
    cell = str(settings.get("genotype", ""))
    if cell and not cell.startswith("Genotype"):
        raise SettingsError(f"{file}: genotype={cell!r:.60} is not the text of a cell; restore it.")
    here = places.model_dump(include={"data_root", "device"}) if places else {}
    return kind.create(**{**settings, **here})


def default_folder(config: RunConfig, kind: str) -> Path:
    """Return `runs/<kind>-<data set>-<hash of the settings that change the result>`."""
    settings = config.settings_that_matter()
    if config.dataset == "folder":  # two folders are two data sets
        settings["data_root"] = str(config.data_folder.resolve())
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    return runs_root() / f"{kind}-{config.dataset}-{digest}"


def _claim(path: Path, config: RunConfig, kind: str) -> None:
    """Check that the folder is that of this run; write config.json if no epoch was finished yet."""
    file, wanted = path / "config.json", {"kind": kind, **config.settings_that_matter()}
    started = any((path / name).exists() for name in (*CHECKPOINTS, "result.json"))
    if file.exists():
        content = read_json(file)
        _check_format(file, content.get("format"))
        if started:
            _check_same(path, content.get("settings", {}), wanted)
    elif started:
        raise SettingsError(f"{path} has a checkpoint but no config.json; use another run_dir.")
    if not started:
        write_json(file, {"format": FORMAT, "library": __version__, "settings": wanted})


def _check_same(path: Path, found: Row, wanted: Row) -> None:
    pairs = {name: (found.get(name), wanted.get(name)) for name in sorted({*found, *wanted})}
    differing = [f"{name} {a!r} there, {b!r} here" for name, (a, b) in pairs.items() if a != b]
    if differing:
        raise SettingsError(
            f"{path} was made with other settings ({'; '.join(differing)}); give another run_dir, "
            "or resume=False to move that run aside."
        )


def _move_aside(path: Path) -> None:
    if not (path / "config.json").exists():
        return  # no run is there: whatever else lies in the folder stays
    number = 1
    while (aside := path.with_name(f"{path.name}.before-{number}")).exists():
        number += 1
    path.rename(aside)
    path.mkdir()
    print(f"resume=False: the earlier run is now {aside}")


def _check_format(file: Path, found: object) -> None:
    if found != FORMAT:
        age = "a newer" if isinstance(found, int) and found > FORMAT else "an older"
        raise SettingsError(
            f"{file} has format {found!r}, of {age} darts_lib than this one (format {FORMAT}); "
            "use that version, another run_dir, or resume=False to move the run aside."
        )
