"""One way to name a cell: a published name, `random`, a file, a run folder, or the text itself."""

import difflib
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
    path = Path(name).expanduser()
    if name and path.is_dir():
        path = path / "genotype.json"
    if name and path.is_file():
        return Genotype.from_dict(read_json(path))
    near = difflib.get_close_matches(name, [*PUBLISHED, "random"], n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise GenotypeError(
        f"unknown genotype {name!r}: {hint}It may be {', '.join(PUBLISHED)}, 'random', a "
        "genotype.json, a finished search's run folder, or a Genotype(...) text."
    )
