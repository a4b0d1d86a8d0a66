"""Recurrent genotypes: the discrete cell as data, its derivation, and the published cells.

A recurrent genotype lists one (activation, source) pair a node; the i-th pair belongs to node
i + 1. `concat` lists the states whose mean the cell puts out.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from darts_lib.derivation import choice_strengths, keep_edges
from darts_lib.formats.cell_choice import Cells
from darts_lib.formats.dialects import read_as
from darts_lib.genotype import BaseGenotype, Pair
from darts_lib.recurrent.search_space import ACTIVATIONS, INPUTS, KEPT, KIND, NODES, PRIMITIVES
from darts_lib.relaxation import Mix, mix


@dataclass(frozen=True)
class RecurrentGenotype(BaseGenotype):
    """A recurrent cell. `str(genotype)` is the original's text, readable back."""

    title, operation = "recurrent genotype", "activation"
    inputs, kept, primitives = INPUTS, KEPT, PRIMITIVES

    recurrent: tuple[Pair, ...]
    concat: tuple[int, ...]

    @property
    def nodes(self) -> int:
        """Return the number of nodes; state 0 is not counted."""
        return len(self.recurrent)

    def __str__(self) -> str:
        span = range(self.concat[0], self.concat[-1] + 1)
        concat = span if tuple(span) == self.concat else list(self.concat)
        return f"Genotype(recurrent={list(self.recurrent)!r}, concat={concat!r})"


def derive(alphas: Mapping[str, Tensor], mix: Mix = mix) -> RecurrentGenotype:
    """Turn alphas `{"recurrent": (edges, 5) logits}` into a genotype. Paper, section 2.4.

    Each node keeps the one edge whose largest weight among the activations other than `none` is the
    largest, and on it that activation, as `derivation.derive` does with two. The output is the mean
    of all nodes. Raises GenotypeError for alphas of another width or that are not finite.
    """
    strengths = choice_strengths(alphas, PRIMITIVES, mix, [KIND])
    return RecurrentGenotype.joining_all(keep_edges(strengths[KIND], PRIMITIVES, INPUTS, KEPT))


def random_genotype(seed: int, nodes: int = NODES) -> RecurrentGenotype:
    """Draw a cell uniformly: for each node a source and an activation, as `derive` may choose."""
    draw = random.Random(seed)
    targets = range(INPUTS, INPUTS + nodes)
    pairs = [(draw.choice(ACTIVATIONS), draw.randrange(target)) for target in targets]
    return RecurrentGenotype.joining_all(pairs)


def read(text: str, name: str = "") -> RecurrentGenotype:
    """Read the cell that stands in a text; see `formats.dialects.read_as`."""
    return read_as(RecurrentGenotype, text, name=name)


PUBLISHED = {
    "ENAS": RecurrentGenotype.compact(
        "tanh.0 tanh.1 relu.1 tanh.3 tanh.3 relu.3 relu.4 relu.7 relu.8 relu.8 relu.8 "
        "-> 2 5 6 9 10 11",
    ),
    "DARTS_V1": RecurrentGenotype.compact(
        "relu.0 relu.1 tanh.2 relu.3 relu.4 identity.1 relu.5 relu.1"
    ),
    "DARTS_V2": RecurrentGenotype.compact(
        "sigmoid.0 relu.1 relu.1 identity.1 tanh.2 sigmoid.5 tanh.3 relu.5"
    ),
}
"""Published recurrent cells. DARTS_V1 and DARTS_V2 are two releases, not two orders of gradient."""

CELLS = Cells(RecurrentGenotype.title, PUBLISHED, random_genotype, read)
"""Recurrent cells."""

find_genotype = CELLS.find
"""Return the recurrent genotype that a name stands for; see `formats.cell_choice.Cells.find`."""
