"""Whatever stands for a cell of any kind: a published name, `random`, a file, a folder, a text."""

import contextlib
import difflib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from darts_lib.engine.refusals import show
from darts_lib.genotype import LIMIT, GenotypeError

AnyCell = TypeVar("AnyCell")


def find_cell(
    name: str,
    read_cell: Callable[[str], AnyCell],
    published: Mapping[str, AnyCell],
    draw: Callable[[], AnyCell],
    called: str,
) -> AnyCell:
    """Return the cell of a kind that `name` stands for; `called` is what the kind is called.

    `read_cell` reads the text of a cell, also as JSON; `draw` gives a random cell.
    """
    if name in published:
        return published[name]
    if name == "random":
        return draw()
    if name.lstrip().startswith("Genotype"):
        return read_cell(name)
    path = name
    with contextlib.suppress(ValueError):  # no user is called by a NUL or by half a character
        path = os.path.expanduser(name)
    folder = os.path.isdir(path)
    if folder:
        path = os.path.join(path, "genotype.json")
    if os.path.isfile(path):  # unlike Path's, it takes any text, however long
        return _from_file(Path(path), read_cell)
    known = {cell.lower(): cell for cell in (*published, "random")}
    near = difflib.get_close_matches(name.lower(), known, n=1)
    hint = f"did you mean {known[near[0]]!r}? " if near else ""
    if folder or os.sep in name:
        hint = "this folder has no genotype.json. " if folder else "nothing is there. "
    raise GenotypeError(
        f"unknown {called} {show(name)}: {hint}It may be {', '.join(published)}, 'random', a "
        "genotype.json, a finished search's run folder, or a Genotype(...) text."
    )


def _from_file(path: Path, read_cell: Callable[[str], AnyCell]) -> AnyCell:
    try:
        return read_cell(read_file(path))
    except GenotypeError as error:
        raise GenotypeError(f"{path}: {error}") from None


def read_file(path: Path) -> str:
    """Return the text of a file that is to hold a cell, as far as one can be long.

    Raises GenotypeError for a file that cannot be read or is no text.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read(LIMIT + 1)
    except OSError as error:
        raise GenotypeError(f"cannot be read ({error.strerror}); name another file.") from None
    except ValueError as error:
        raise GenotypeError(f"is no text ({error}); name another file.") from None
