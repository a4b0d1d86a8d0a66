"""The one way to name a cell: a published name, `random`, a file, a run folder, or the text."""

from functools import partial

from darts_lib.derivation import random_genotype
from darts_lib.formats.cell_names import find_cell
from darts_lib.formats.dialects import read
from darts_lib.genotype import PUBLISHED, Genotype


def find_genotype(name: str, seed: int = 0) -> Genotype:
    """Return the genotype that `name` stands for.

    `name` is a published cell (`DARTS_V2`), `random` (drawn with `seed`), the path of a
    `genotype.json`, of a cell in another project's text or of a search's run folder, or a
    `Genotype(...)` text, also one with a list for each node or a weight in each pair. Raises
    GenotypeError with the valid names for anything else.
    """
    return find_cell(name, read, PUBLISHED, partial(random_genotype, seed), "genotype")
