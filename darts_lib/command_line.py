"""`python -m darts_lib.search CONFIG.json`: a run from a file of settings, alone or by torchrun."""

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from darts_lib.ranks import Ranks, joined
from darts_lib.refusals import SettingsError, show
from darts_lib.run_files import read_json
from darts_lib.run_opening import run_path
from darts_lib.settings import RunConfig

Config = TypeVar("Config", bound=RunConfig)
Result = TypeVar("Result")


def read_config(path: Path, kind: type[Config], data_root: str = "", name: str = "") -> Config:
    """Read settings from JSON, `{"epochs": 50, ...}`, or those of a run that is to go on.

    Such a run is named by its folder or by the config.json in it; the folder is then its `run_dir`.
    It does not say where its data are: `data_root` does, where that is not the usual place.
    Raises SettingsError for a file that cannot be read, for a run of another kind than `name`, and
    for a wrong name or value.
    """
    file = path / "config.json" if path.is_dir() else path
    content = read_json(file)
    found = content.get("settings", content)
    if not isinstance(found, dict):
        raise SettingsError(f"{file}: settings must be an object, not {show(found)}.")
    settings = dict(found)
    made_by = settings.pop("kind", name)
    if name and made_by != name:
        raise SettingsError(
            f"{path} holds a run of the kind {made_by!r}, not {name!r}; give it to the command of "
            'its kind, or name it as the "genotype" of a retraining.'
        )
    if "format" in content:  # only a run folder's own file has one
        settings["run_dir"] = str(file.resolve().parent)
    if data_root:
        settings["data_root"] = data_root
    return kind.create(**settings)


def run_from_file(
    name: str,
    kind: type[Config],
    run: Callable[[Config], Result],
    summary: Callable[[Result], str],
) -> None:
    """Run what the command line's one argument describes; settings that are wrong end it with 2.

    `name` is what the kind of run is called; `summary` says what came of it and what may follow.
    Under torchrun every rank calls this, and all of them work on the one run.
    """
    parser = argparse.ArgumentParser(description=f"Run the {kind.__name__} of a JSON file.")
    parser.add_argument(
        "config", type=Path, help="settings as JSON, or the folder of a run that is to go on"
    )
    parser.add_argument(
        "--data-root", default="", metavar="FOLDER", help="of data sets or pictures, if not usual"
    )
    given = parser.parse_args()
    with refused_in_one_line():
        config = read_config(given.config, kind, given.data_root, name)
        with joined():
            first = Ranks.current().first
            if first:
                print(f"run folder: {run_path(config, name)}", flush=True)
            result = run(config)
            if first:
                print(summary(result))


@contextlib.contextmanager
def refused_in_one_line() -> Iterator[None]:
    """End the program with status 2 where something cannot be used, and say so in one line."""
    try:
        yield
    except SettingsError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
