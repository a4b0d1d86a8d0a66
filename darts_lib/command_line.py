"""`python -m darts_lib.search CONFIG.json`: a run from a file of settings, alone or by torchrun."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from darts_lib.ranks import joined
from darts_lib.refusals import SettingsError, show
from darts_lib.run_files import read_json
from darts_lib.settings import RunConfig

Config = TypeVar("Config", bound=RunConfig)


def read_config(path: Path, kind: type[Config]) -> Config:
    """Read settings from JSON, `{"epochs": 50, ...}`, or from the config.json of a run folder.

    Raises SettingsError for a file that cannot be read, and for a wrong name or value.
    """
    content = read_json(path)
    found = content.get("settings", content)
    if not isinstance(found, dict):
        raise SettingsError(f"{path}: settings must be an object, not {show(found)}.")
    settings = dict(found)
    settings.pop("kind", None)
    return kind.create(**settings)


def run_from_file(kind: type[Config], run: Callable[[Config], object]) -> None:
    """Run what the command line's one argument describes; settings that are wrong end it with 2.

    Under torchrun every rank calls this, and all of them work on the one run.
    """
    parser = argparse.ArgumentParser(description=f"Run the {kind.__name__} of a JSON file.")
    parser.add_argument("config", type=Path, help="settings as JSON, or a run's config.json")
    path = parser.parse_args().config
    try:
        config = read_config(path, kind)
        with joined():
            run(config)
    except SettingsError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
