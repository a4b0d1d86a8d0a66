"""`python -m darts_lib.search CONFIG.json`: a run from a file of settings, alone or by torchrun."""

import argparse
import contextlib
import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from darts_lib.engine.folder import read_json
from darts_lib.engine.opening import check_kind, run_path, stored_config
from darts_lib.engine.ranks import joined
from darts_lib.engine.refusals import SettingsError, show
from darts_lib.engine.settings import RunConfig

Config = TypeVar("Config", bound=RunConfig)
Result = TypeVar("Result")


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
    given = _parser(kind).parse_args()
    with refused_in_one_line():
        config = read_config(given.config, kind, given.data_root)
        with joined() as ranks:
            if ranks.first:
                print(f"run folder: {run_path(config)}", flush=True)
            result = run(config)
            if ranks.first:
                print(summary(result))


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
        "config", type=Path, help="settings as JSON, or the folder of a run that is to go on"
    )
    parser.add_argument(
        "--data-root", default="", metavar="FOLDER", help="of data sets or pictures, if not usual"
    )
    return parser


@contextlib.contextmanager
def refused_in_one_line() -> Iterator[None]:
    """End the program with status 2 where something cannot be used, and say so in one line."""
    try:
        yield
    except SettingsError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
