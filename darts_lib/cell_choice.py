"""One way to name a cell: a published name, `random`, a file, a run folder, or the text itself."""

import contextlib
import difflib
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from darts_lib.derivation import random_genotype
from darts_lib.dialects import read
from darts_lib.genotype import PUBLISHED, Genotype, GenotypeError
from darts_lib.refusals import show
from darts_lib.run_files import read_json

AnyCell = TypeVar("AnyCell")


def find_genotype(name: str, seed: int = 0) -> Genotype:
    """Return the genotype that `name` stands for.

    `name` is a published cell (`DARTS_V2`), `random` (drawn with `seed`), the path of a
    `genotype.json` or of a search's run folder, or a `Genotype(...)` text, also one with a list
    for each node or a weight in each pair. Raises GenotypeError with the valid names for anything
    else.
    """
    draw = partial(random_genotype, seed)
    return find_cell(name, Genotype.from_dict, read, PUBLISHED, draw, "genotype")


def find_cell(
    name: str,
    from_dict: Callable[[Mapping[str, object]], AnyCell],
    from_text: Callable[[str], AnyCell],
    published: Mapping[str, AnyCell],
    draw: Callable[[], AnyCell],
    called: str,
) -> AnyCell:
    """Return the cell of a kind that `name` stands for; `called` is what the kind is called.

    `from_dict` reads JSON's lists, `from_text` a `Genotype(...)` text, `draw` gives a random cell.
    """
    if name in published:
        return published[name]
    if name == "random":
        return draw()
    if name.lstrip().startswith("Genotype"):
        return from_text(name)
    path = name
    with contextlib.suppress(ValueError):  # no user is called by a NUL or by half a character
        path = os.path.expanduser(name)
    if os.path.isdir(path):
        path = os.path.join(path, "genotype.json")
    if os.path.isfile(path):  # unlike Path's, it takes any text, however long
        return from_dict(read_json(Path(path)))
    known = {cell.lower(): cell for cell in (*published, "random")}
    near = difflib.get_close_matches(name.lower(), known, n=1)
    hint = f"did you mean {known[near[0]]!r}? " if near else ""
    raise GenotypeError(
        f"unknown {called} {show(name)}: {hint}It may be {', '.join(published)}, 'random', a "
        "genotype.json, a finished search's run folder, or a Genotype(...) text."
    )
