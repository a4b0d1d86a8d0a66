"""`python -m darts_lib.search CONFIG.json`: a run from a file of settings, alone or by torchrun."""

import argparse
import io
import json
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from darts_lib.engine.folder import read_json
from darts_lib.engine.opening import check_kind, run_path, stored_config
from darts_lib.engine.places import place
from darts_lib.engine.ranks import joined
from darts_lib.engine.refusals import SettingsError, one_line, show
from darts_lib.engine.settings import RunConfig, project_root

Config = TypeVar("Config", bound=RunConfig)
Result = TypeVar("Result")

TOLD = (OSError, FloatingPointError, ModuleNotFoundError)
"""Errors besides the library's own whose line says enough to a person."""


def read_config(path: Path, kind: type[Config], data_root: str = "") -> Config:
    """Read settings from JSON, `{"epochs": 50, ...}`, or those of a run that is to go on.

    Such a run is named by its folder or by the config.json in it; the folder is then its `run_dir`.
    It does not say where its data are: `data_root` does, where that is not the usual place.
    """
    here = {"data_root": data_root} if data_root else {}
    if path.is_dir() or (path.name == "config.json" and "format" in read_json(path)):
        folder = path if path.is_dir() else path.parent
        return stored_config(folder, kind, run_dir=str(folder.resolve()), **here)
    content = read_json(path)
    settings = content.get("settings", content)
    if not isinstance(settings, dict):
        raise SettingsError(f"{path}: settings must be an object, not {show(settings)}.")
    check_kind(path, settings, kind)
    given = {key: value for key, value in settings.items() if key != "kind"}
    return kind.create(**{**given, **here})


def run_from_file(
    kind: type[Config], run: Callable[[Config], Result], summary: Callable[[Result], str]
) -> None:
    """Run what the command line's one argument describes, and say by `summary` what came of it.

    Under torchrun every rank calls this, and all of them work on the one run.
    """

    def main(arguments: Sequence[str]) -> None:
        given = _parser(kind).parse_args(arguments)
        config = read_config(given.config, kind, given.data_root)
        with joined() as ranks:
            if ranks.first:
                print(f"run folder: {run_path(config)}", flush=True)
            result = run(config)
            if ranks.first:
                print(summary(result))

    run_command(main)


def _parser(kind: type[RunConfig]) -> argparse.ArgumentParser:
    """Return the reader of the command line, whose help names every setting."""
    defaults = {name: field.default for name, field in kind.model_fields.items()}
    smaller = json.dumps(kind.LAPTOP)[1:-1]
    paragraphs = (
        "settings, with the values that they have when left out:",
        json.dumps(defaults)[1:-1],
        f'with "scale": "laptop", which "auto" is where no CUDA is found: {smaller}',
    )
    module = sys.modules["__main__"].__spec__
    parser = argparse.ArgumentParser(
        prog=f"python -m {module.name}" if module else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description='Run what a JSON file describes, such as {"scale": "laptop", "epochs": 4}.',
        epilog="\n\n".join(
            textwrap.fill(paragraph, 90, break_long_words=False) for paragraph in paragraphs
        ),
    )
    parser.add_argument(
        "config",
        type=path_argument,
        help="settings as JSON, or the folder of a run that is to go on",
    )
    parser.add_argument(
        "--data-root", default="", metavar="FOLDER", help="of data sets or pictures, if not usual"
    )
    return parser


def path_argument(text: str) -> Path:
    """Return the path that an argument names, or end the program in a line; argparse's `type`."""
    try:
        return place(text, "path")
    except SettingsError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)


def run_command(main: Callable[[Sequence[str]], int | None]) -> None:
    """Run a command on its arguments and end the program with its status, if that is not 0.

    What stops it is told in one line: by status 2 what cannot be used or computed, by 130 a Ctrl-C,
    by 141 a reader of its output that has gone. Only a fault of the library is a traceback.
    """
    for stream in (sys.stdout, sys.stderr):  # a letter that a terminal lacks must not end a run
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = main(sys.argv[1:]) or 0
        sys.stdout.flush()
    except KeyboardInterrupt as stop:
        said = str(stop) or "stopped; the same command goes on from what is kept, or starts again"
        print(said, file=sys.stderr)
        status = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the last flush
        status = 141
    except Exception as error:
        of_the_library = type(error).__module__.startswith("darts_lib.")
        if not of_the_library and not isinstance(error, TOLD):
            raise
        print(f"{type(error).__name__}: {one_line(error)}", file=sys.stderr)
        status = 2
    if status:
        sys.exit(status)


def at_least(given: argparse.Namespace, **least: float) -> None:
    """Refuse options of a command line that are less than what stands here by their names."""
    for name, bound in least.items():
        value = getattr(given, name)
        if not value >= bound:  # nor is it a NaN
            raise SettingsError(f"--{name.replace('_', '-')} {value}: must be at least {bound:g}.")


def clone_with(*files: str) -> Path:
    """Return the root of the project; refuse where it lacks these files of a clone of it."""
    root = project_root()
    for file in files:
        if not (root / file).is_file():
            raise SettingsError(
                f"the chapters and pages are not here ({root / file} is missing): run this in a "
                "clone of the project, not where the library alone is installed."
            )
    return root
