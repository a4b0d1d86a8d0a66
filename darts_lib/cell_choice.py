"""One way to name a cell: a published name, `random`, a file, a run folder, or the text itself."""

import contextlib
import difflib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, Self, TypeVar

from darts_lib.derivation import random_genotype
from darts_lib.dialects import read
from darts_lib.genotype import PUBLISHED, Genotype, GenotypeError
from darts_lib.refusals import show
from darts_lib.run_files import read_json


class Cell(Protocol):
    """A genotype of either kind: read from its text or from JSON's lists."""

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read the original's `Genotype(...)` text."""

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Self:
        """Build from JSON's lists."""


AnyCell = TypeVar("AnyCell", bound=Cell)


def find_genotype(name: str, seed: int = 0) -> Genotype:
    """Return the genotype that `name` stands for.

    `name` is a published cell (`DARTS_V2`), `random` (drawn with `seed`), the path of a
    `genotype.json` or of a search's run folder, or a `Genotype(...)` text, also one with a list
    for each node or a weight in each pair. Raises GenotypeError with the valid names for anything
    else.
    """
    if name.lstrip().startswith("Genotype"):
        return read(name)
    return find_cell(name, Genotype, PUBLISHED, lambda: random_genotype(seed), "genotype")


def find_cell(
    name: str,
    kind: type[AnyCell],
    published: Mapping[str, AnyCell],
    draw: Callable[[], AnyCell],
    called: str,
) -> AnyCell:
    """Return the cell of a kind that `name` stands for; `called` is what the kind is called."""
    if name in published:
        return published[name]
    if name == "random":
        return draw()
    if name.lstrip().startswith("Genotype"):
        return kind.from_text(name)
    path = name
    with contextlib.suppress(ValueError):  # no user is called by a NUL or by half a character
        path = os.path.expanduser(name)
    if os.path.isdir(path):
        path = os.path.join(path, "genotype.json")
    if os.path.isfile(path):  # unlike Path's, it takes any text, however long
        return kind.from_dict(read_json(Path(path)))
    known = {cell.lower(): cell for cell in (*published, "random")}
    near = difflib.get_close_matches(name.lower(), known, n=1)
    hint = f"did you mean {known[near[0]]!r}? " if near else ""
    raise GenotypeError(
        f"unknown {called} {show(name)}: {hint}It may be {', '.join(published)}, 'random', a "
        "genotype.json, a finished search's run folder, or a Genotype(...) text."
    )
