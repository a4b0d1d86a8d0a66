"""Which folder a run has; opened for one process and for the same run only; and how a run ends."""

import contextlib
import gc
import hashlib
import json
import os
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from darts_lib.engine import devices
from darts_lib.engine.files import check_writable, is_there, locked, sweep
from darts_lib.engine.folder import (
    CHECKPOINTS,
    Row,
    RunFolder,
    check_format,
    newest_checkpoint,
    read_json,
)
from darts_lib.engine.places import place
from darts_lib.engine.ranks import Ranks
from darts_lib.engine.refusals import SettingsError, show
from darts_lib.engine.settings import RunConfig, runs_root

Config = TypeVar("Config", bound=RunConfig)


@contextlib.contextmanager
def opened(config: RunConfig) -> Iterator[RunFolder]:
    """Open the run folder of `config` for one process; make it, or check that it is the same run.

    `resume=False` moves an earlier run aside, never deletes it. Of several ranks the first opens it
    for all. Raises `SettingsError` if the folder is in use or holds another run.
    """
    path, ranks = run_path(config), Ranks.current()
    with contextlib.ExitStack() as stack:
        stack.enter_context(tidy_end(path))
        device = devices.resolve_device(config.device)
        stack.enter_context(devices.deterministic_algorithms(config.deterministic, device))
        if not ranks.first:
            ranks.wait()
            yield RunFolder(path)
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(path.parent / f".{path.name}.lock", f"run folder {path}"))
            path.mkdir(exist_ok=True)
            stack.callback(_remove_if_empty, path)
            if not config.resume and _has(path, "config.json", *CHECKPOINTS, "result.json"):
                _move_aside(path)
        except OSError as error:
            raise SettingsError(
                f"run_dir {path} cannot be used ({error.strerror}); give another run_dir."
            ) from error
        if not (path / "result.json").exists():  # what cannot be kept is told now, not later
            check_writable(path)
        sweep(path)
        folder = same_run(path, config)
        _warn_of_others(path)
        devices.warn_of_unused_gpu(config.device)
        ranks.wait()
        yield folder


def check_start(config: RunConfig) -> None:
    """Refuse what `opened` would, and make nothing: a chapter asks this before its lesson."""
    path = run_path(config)
    if config.resume and _has(path, *CHECKPOINTS, "result.json"):
        same_run(path, config)
    place = next(each for each in (path, *path.parents) if each.exists())
    if not (path / "result.json").exists() and not os.access(place, os.W_OK | os.X_OK):
        raise SettingsError(
            f"run_dir {path} cannot be used ({place} cannot be written); give another run_dir."
        )


@contextlib.contextmanager
def tidy_end(path: Path) -> Iterator[None]:
    """Free what a run in folder `path` held when it ends, and tell a Ctrl-C in one line.

    A kernel keeps its last error, and with the error's frames the supernet and its gradients: a
    smaller run after it would not fit beside them. So these frames are emptied, for a debugger too.
    """
    try:
        yield
    except BaseException as error:
        _empty_frames(error)
        gc.collect()  # a run holds its own step: a ring, which only this frees at once
        if isinstance(error, FloatingPointError):
            line = f"FloatingPointError: {error}"
            error._render_traceback_ = lambda: [line]  # type: ignore[attr-defined]
        if not isinstance(error, KeyboardInterrupt):
            raise
        said = (
            f"stopped; finished epochs are kept in {path}: run the same cell or command to go on."
        )
        stop: Any = KeyboardInterrupt(said)
        stop._render_traceback_ = lambda: [f"KeyboardInterrupt: {said}"]  # IPython's one line
        raise stop from None
    finally:
        devices.give_back_memory()


def _empty_frames(error: BaseException) -> None:
    """Clear the variables of all functions that an error has left, and of the errors before it."""
    chain = [error]
    for link in chain:
        traceback.clear_frames(link.__traceback__)
        before = (link.__cause__, link.__context__)
        chain += [each for each in before if each and all(each is not other for other in chain)]


def run_path(config: RunConfig) -> Path:
    """Return the run folder of `config`, wherever it is named: one folder, and so one lock."""
    return place(config.run_dir or default_folder(config), "run_dir", folder=True).resolve()


def default_folder(config: RunConfig) -> Path:
    """Return `runs/<kind>-<data set>-<hash of the settings that change the result>`."""
    settings = config.settings_that_matter()
    if config.dataset == "folder":  # two folders are two data sets
        settings["data_root"] = str(config.data_folder.resolve())
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    return runs_root() / f"{config.KIND}-{config.dataset}-{digest}"


def same_run(path: Path, config: RunConfig) -> RunFolder:
    """Return the folder of `config`'s run; refuse one that holds a run of other settings or data.

    Data are compared by `RunConfig.fingerprint`, none are loaded. Where those of a finished run are
    gone, or an older version kept nothing of them, a line says that they are not compared.
    """
    settings = {"kind": config.KIND, **config.settings_that_matter()}
    started = _has(path, *CHECKPOINTS, "result.json")
    stored = stored_run(path) if started else {}
    if started and not stored:
        raise SettingsError(f"{path} holds a run but no config.json; use another run_dir.")
    if started and (differing := _differing(stored["settings"], settings)):
        raise SettingsError(
            f"{path} was made with other settings ({differing}); give another "
            "run_dir, or resume=False to move that run aside."
        )
    try:
        data = config.fingerprint()
    except SettingsError as error:
        if not (path / "result.json").exists():
            raise
        print(f"the data of the finished run in {path} are not compared: {error}")
        data = {}
    if started and data and not stored["data"]:
        print(f"{path} is of a version that kept nothing of its data: they are not compared.")
    elif changes := data_changes(stored.get("data", {}), data):
        raise SettingsError(
            f"the data of the run in {path} have changed: {'; '.join(changes)}. Give back the data "
            "that it was started with, or another run_dir, or resume=False to move that run aside."
        )
    return RunFolder(path, settings, data=data)


def data_changes(then: Row, now: Row) -> list[str]:
    """Say by name how data differ from those that a run was started with; see `fingerprint`."""
    said: list[str] = []
    for what, value in now.items():
        before: Any = then.get(what, value)
        if not isinstance(before, type(value)):  # in a file that a person has written to
            before = type(value)()
        if isinstance(value, list) and before != value:
            new = [f"{name!r} is new" for name in value if name not in before]
            gone = [f"{name!r} is gone" for name in before if name not in value]
            told = ", ".join((new + gone)[:10]) or f"in another order, {value[0]!r} is the first"
            said.append(f"{len(value)} {what} now, {len(before)} when the run was started ({told})")
        elif isinstance(value, dict):
            for split in {**before, **value}:  # one that is gone counts as well
                there, there_before = value.get(split), before.get(split)
                if there == there_before:
                    continue
                if what == "counts":
                    said.append(f"{there or 'none'} in {split} now, {there_before or 'none'} then")
                elif not said:
                    said.append(f"other contents or names of the files of {split}")
    return said


def stored_run(path: Path) -> Row:
    """Return `settings` and `data` of the run in a folder, or nothing where none are kept.

    They are those of its checkpoint: config.json is a copy for people. It counts where a checkpoint
    of an older version has none, or there is no checkpoint.
    """
    file, settings = path / "config.json", None
    content: Row = {}
    if is_there(file):
        content = read_json(file)
        settings = content.get("settings")
        if "format" not in content or not isinstance(settings, dict):
            raise SettingsError(f"{file} was not written by a run; name a run folder.")
        check_format(file, content["format"])
    checkpoint = newest_checkpoint(path)
    kept: Any = checkpoint.get("settings", settings)
    if settings and (differing := _differing(kept, settings, "in the checkpoint")):
        print(f"{file} is not as it was written ({differing}); what its checkpoint says holds.")
    data = checkpoint.get("data", content.get("data"))
    data = data if isinstance(data, dict) else {}
    return {} if kept is None else {"settings": kept, "data": data}


def _differing(there: Row, here: Row, place: str = "there") -> str:
    pairs = {name: (there.get(name), here.get(name)) for name in sorted({*there, *here})}
    return "; ".join(
        f"{n} {show(a)} {place}, {show(b)} here" for n, (a, b) in pairs.items() if a != b
    )


def _has(path: Path, *names: str) -> bool:
    return any((path / name).exists() for name in names)


def _warn_of_others(path: Path) -> None:
    """Warn if a folder in which no run was started holds other things."""
    names = sorted(each.name for each in path.iterdir() if each.suffix != ".ipynb")
    others = [name for name in names if not name.startswith(".")]
    # A run that was killed in its first epoch has left a config.json, and nothing to lose.
    if others and not _has(path, "config.json", *CHECKPOINTS):
        print(
            f"warning: run_dir {path} already holds other things ({len(others)}, such as "
            f"{others[0]}); the files of the run are put beside them."
        )


def _remove_if_empty(path: Path) -> None:
    """Leave no folder where a run was refused, or ended before its first checkpoint."""
    with contextlib.suppress(OSError):
        path.rmdir()


def _move_aside(path: Path) -> None:
    number = 1
    while (aside := path.with_name(f"{path.name}.before-{number}")).exists():
        number += 1
    path.rename(aside)
    path.mkdir()
    print(f"resume=False: the earlier run is now {aside}")


def stored_settings(path: Path) -> Row:
    """Return the settings of the run in a folder, as they stand there, with their `kind`."""
    if not (stored := stored_run(path)):
        raise SettingsError(f"{path} is no run folder: it has no config.json; name another.")
    return dict(stored["settings"])


def stored_config(path: Path, kind: type[Config], **here: object) -> Config:
    """Return the settings that a run folder was made with, for use on this machine.

    The folder names no place: `here` are the settings that it cannot know, such as `data_root`.
    """
    stored, left_out = stored_settings(path), {"kind", *kind.NO_EFFECT_ON_RESULT}
    check_kind(path, stored, kind)
    settings = {name: value for name, value in stored.items() if name not in left_out}
    cell = str(settings.get("genotype", ""))
    if cell and not cell.startswith("Genotype"):
        raise SettingsError(
            f"{path / 'config.json'}: genotype={cell!r:.60} is not the text of a cell; restore it."
        )
    return kind.create(**{**settings, **here})


def check_kind(path: Path, settings: Row, kind: type[RunConfig]) -> None:
    """Refuse the settings of a run of another kind; those that a person wrote may name none."""
    stored = settings.get("kind", kind.KIND)
    if stored != kind.KIND:
        raise SettingsError(
            f"{path} holds a run of the kind {stored!r}, not {kind.KIND!r}; name one of that kind "
            '(to train the cell that a search has found, name its folder as "genotype").'
        )


def this_machine(config: RunConfig | None) -> dict[str, Any]:
    """Return where the data lie and what computes, from a configuration of this machine."""
    return config.model_dump(include={"data_root", "device"}) if config else {}
