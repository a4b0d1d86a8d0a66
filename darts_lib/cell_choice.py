"""One way to name a cell: a published name, `random`, a file, a run folder, or the text itself."""

import difflib
import os
from pathlib import Path

from darts_lib.derivation import random_genotype
from darts_lib.genotype import PUBLISHED, Genotype, GenotypeError
from darts_lib.runs import read_json


def find_genotype(name: str, seed: int = 0) -> Genotype:
    """Return the genotype that `name` stands for.

    `name` is a published cell (`DARTS_V2`), `random` (drawn with `seed`), the path of a
    `genotype.json` or of a search's run folder, or a `Genotype(...)` text. Raises GenotypeError
    with the valid names for anything else.
    """
    if name in PUBLISHED:
        return PUBLISHED[name]
    if name == "random":
        return random_genotype(seed)
    if name.lstrip().startswith("Genotype"):
        return Genotype.from_text(name)
    path = os.path.expanduser(name)
    if os.path.isdir(path):
        path = os.path.join(path, "genotype.json")
    if os.path.isfile(path):  # unlike Path's, it takes any text, however long
        return Genotype.from_dict(read_json(Path(path)))
    known = {cell.lower(): cell for cell in (*PUBLISHED, "random")}
    near = difflib.get_close_matches(name.lower(), known, n=1)
    hint = f"did you mean {known[near[0]]!r}? " if near else ""
    raise GenotypeError(
        f"unknown genotype {name!r}: {hint}It may be {', '.join(PUBLISHED)}, 'random', a "
        "genotype.json, a finished search's run folder, or a Genotype(...) text."
    )
