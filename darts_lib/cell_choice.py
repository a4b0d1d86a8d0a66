"""One way to name a cell: a published name, `random`, a file, a run folder, or the text itself."""

import contextlib
import difflib
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from darts_lib.derivation import random_genotype
from darts_lib.dialects import read, read_file
from darts_lib.genotype import PUBLISHED, Genotype, GenotypeError
from darts_lib.refusals import show

AnyCell = TypeVar("AnyCell")


def find_genotype(name: str, seed: int = 0) -> Genotype:
    """Return the genotype that `name` stands for.

    `name` is a published cell (`DARTS_V2`), `random` (drawn with `seed`), the path of a
    `genotype.json`, of a cell in another project's text or of a search's run folder, or a
    `Genotype(...)` text, also one with a list for each node or a weight in each pair. Raises
    GenotypeError with the valid names for anything else.
    """
    return find_cell(name, read, PUBLISHED, partial(random_genotype, seed), "genotype")


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
