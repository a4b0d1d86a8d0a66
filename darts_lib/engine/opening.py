"""Which folder a run has; opened for one process and for the same run only; and how a run ends."""

import contextlib
import gc
import hashlib
import json
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch

from darts_lib.engine import devices
from darts_lib.engine.files import locked, sweep, write_whole
from darts_lib.engine.folder import CHECKPOINTS, Row, RunFolder, check_format, read_json
from darts_lib.engine.ranks import Ranks
from darts_lib.engine.refusals import SettingsError
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
            if not config.resume and (path / "config.json").exists():
                _move_aside(path)
        except OSError as error:
            raise SettingsError(
                f"run_dir {path} cannot be used ({error.strerror}); give another run_dir."
            ) from error
        if not (path / "result.json").exists():  # what cannot be kept is told now, not later
            write_whole(path / ".writable.part", b"{}")
        sweep(path)
        settings = {"kind": config.KIND, **config.settings_that_matter()}
        _check(path, settings)
        devices.warn_of_unused_gpu(config.device)
        ranks.wait()
        yield RunFolder(path, settings)


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
    if torch.cuda.is_available():  # elsewhere Python's own collections come soon enough
        gc.collect()


def _empty_frames(error: BaseException) -> None:
    """Clear the variables of all functions that an error has left, and of the errors before it."""
    chain = [error]
    for link in chain:
        traceback.clear_frames(link.__traceback__)
        before = (link.__cause__, link.__context__)
        chain += [each for each in before if each and all(each is not other for other in chain)]


def run_path(config: RunConfig) -> Path:
    """Return the run folder of `config`, wherever it is named: one folder, and so one lock."""
    given = Path(config.run_dir).expanduser() if config.run_dir else default_folder(config)
    if given.is_file():
        raise SettingsError(f"run_dir {given} is a file; give another run_dir.")
    return given.resolve()


def default_folder(config: RunConfig) -> Path:
    """Return `runs/<kind>-<data set>-<hash of the settings that change the result>`."""
    settings = config.settings_that_matter()
    if config.dataset == "folder":  # two folders are two data sets
        settings["data_root"] = str(config.data_folder.resolve())
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    return runs_root() / f"{config.KIND}-{config.dataset}-{digest}"


def _check(path: Path, wanted: Row) -> None:
    """Check that a folder which holds a run holds this one; warn if it holds other things."""
    file = path / "config.json"
    started = any((path / name).exists() for name in (*CHECKPOINTS, "result.json"))
    if file.exists() and started:
        content = read_json(file)
        check_format(file, content.get("format"))
        stored = content.get("settings", {})
        pairs = {name: (stored.get(name), wanted.get(name)) for name in sorted({*stored, *wanted})}
        differing = [f"{name} {a!r} there, {b!r} here" for name, (a, b) in pairs.items() if a != b]
        if differing:
            raise SettingsError(
                f"{path} was made with other settings ({'; '.join(differing)}); give another "
                "run_dir, or resume=False to move that run aside."
            )
    if file.exists():
        return  # a run that was killed in its first epoch has nothing to lose
    names = sorted(each.name for each in path.iterdir() if each.suffix != ".ipynb")
    if others := [name for name in names if not name.startswith(".")]:
        print(
            f"warning: run_dir {path} already holds other things ({len(others)}, such as "
            f"{others[0]}); the files of the run are put beside them."
        )
    if started:
        raise SettingsError(f"{path} has a checkpoint but no config.json; use another run_dir.")


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
    """Return the settings in a run folder's config.json as they stand there, with their `kind`."""
    file = path / "config.json"
    if not file.is_file():
        raise SettingsError(f"{path} is no run folder: it has no config.json; name another.")
    content = read_json(file)
    stored = content.get("settings")
    if "format" not in content or not isinstance(stored, dict):
        raise SettingsError(f"{file} was not written by a run; name a run folder.")
    check_format(file, content["format"])
    return stored


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
