"""Recurrent genotypes: the discrete cell as data, its text and JSON, and the published cells.

A recurrent genotype lists one (activation, source) pair a node; the i-th pair belongs to node
i + 1. `concat` lists the states whose mean the cell puts out.
"""

import difflib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import torch
from torch import Tensor

from darts_lib.engine.refusals import show
from darts_lib.formats.cell_names import find_cell
from darts_lib.formats.dialect_texts import load_json
from darts_lib.genotype import GenotypeError, Pair, literal_fields
from darts_lib.recurrent.search_space import (
    ACTIVATIONS,
    KIND,
    NODES,
    PRIMITIVES,
    edges,
    nodes_of,
    row_offset,
)

FIELDS = ("recurrent", "concat")


@dataclass(frozen=True)
class RecurrentGenotype:
    """A recurrent cell. `str(genotype)` is the original's text, readable back."""

    recurrent: tuple[Pair, ...]
    concat: tuple[int, ...]

    def __post_init__(self) -> None:
        _check(self.recurrent, self.concat)

    @property
    def nodes(self) -> int:
        """Return the number of nodes; state 0 is not counted."""
        return len(self.recurrent)

    def __str__(self) -> str:
        states = list(self.concat)
        whole = states == list(range(states[0], states[-1] + 1))
        concat = f"range({states[0]}, {states[-1] + 1})" if whole else repr(states)
        return f"Genotype(recurrent={list(self.recurrent)!r}, concat={concat})"

    def to_dict(self) -> dict[str, object]:
        """Return plain lists for JSON: pairs as [activation, source]."""
        return {"recurrent": [list(pair) for pair in self.recurrent], "concat": list(self.concat)}

    @classmethod
    def from_dict(cls, values: object) -> Self:
        """Build from JSON's lists; a missing, unknown or malformed field is named."""
        if not isinstance(values, Mapping):
            raise GenotypeError(
                f"a genotype must be an object with {list(FIELDS)}, not {show(values)}."
            )
        if set(values) != set(FIELDS):
            odd = show(sorted(set(values) ^ set(FIELDS)))
            raise GenotypeError(
                f"recurrent genotype fields must be {list(FIELDS)}; missing or unknown: {odd}."
            )
        pairs = tuple(_pair(item) for item in _listed("recurrent", values["recurrent"]))
        return cls(pairs, tuple(_state(item) for item in _listed("concat", values["concat"])))

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read `Genotype(recurrent=[...], concat=range(1, 9))`, concat as a list or a range."""
        return cls.from_dict(literal_fields(text))


def _check(pairs: Sequence[Pair], concat: Sequence[int]) -> None:
    if not pairs:
        raise GenotypeError("recurrent: no pairs; a cell needs at least one node.")
    for node, (name, source) in enumerate(pairs, 1):
        if name not in ACTIVATIONS:
            raise GenotypeError(
                f"recurrent, node {node}: unknown activation {show(name)}{_hint(name)}"
            )
        if not 0 <= source < node:
            raise GenotypeError(
                f"recurrent, node {node}: source {show(source)} is not an earlier state; use 0 to "
                f"{node - 1}."
            )
    wrong = [state for state in concat if not 1 <= state <= len(pairs)]
    if wrong or not concat or len(set(concat)) != len(concat):
        raise GenotypeError(
            f"concat={show(list(concat))} must list distinct nodes from 1 to {len(pairs)}."
        )


def _hint(name: str) -> str:
    if name == "none":
        return "; 'none' competes in the search but is never part of a cell."
    near = difflib.get_close_matches(name, ACTIVATIONS, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(ACTIVATIONS)}."


def _listed(name: str, value: object) -> Sequence[object]:
    if not isinstance(value, list | tuple):
        raise GenotypeError(f"{name} must be a list, not {show(value)}.")
    return value


def _state(item: object) -> int:
    if type(item) is not int:
        raise GenotypeError(f"concat: {show(item)} is not a state number.")
    return item


def _pair(item: object) -> Pair:
    if isinstance(item, list | tuple) and len(item) == 2:
        name, source = item
        if isinstance(name, str) and type(source) is int:
            return name, source
    raise GenotypeError(f"recurrent: {show(item)} is not a pair ('tanh', source).")


def derive(alphas: Mapping[str, Tensor]) -> RecurrentGenotype:
    """Turn alphas `{"recurrent": (edges, 5) logits}` into a genotype. Paper, section 2.4.

    Each node keeps the one edge whose largest softmax weight among the activations other than
    `none` is the largest, and on it that activation; ties go to the lower index. `none` cannot
    win, but it takes softmax mass, so an edge that prefers it is weak. The output is the mean of
    all nodes. Raises GenotypeError for alphas of another width or that are not finite.
    """
    logits = alphas[KIND].detach().cpu().double()
    if logits.shape[1] != len(PRIMITIVES):
        raise GenotypeError(f"alphas have {logits.shape[1]} columns for {len(PRIMITIVES)} names.")
    strengths = torch.softmax(logits, dim=-1)[:, 1:]
    if strengths.isnan().any():
        raise GenotypeError("alphas hold values that are not finite; the search diverged.")
    nodes, pairs = nodes_of(len(strengths)), []
    for target in range(1, nodes + 1):
        rows = strengths[row_offset(target) : row_offset(target + 1)].tolist()
        source = max(range(target), key=lambda source: max(rows[source]))  # the first of equals
        pairs.append((ACTIVATIONS[rows[source].index(max(rows[source]))], source))
    return RecurrentGenotype(tuple(pairs), tuple(range(1, nodes + 1)))


def one_hot_alphas(genotype: RecurrentGenotype) -> dict[str, Tensor]:
    """Return logits whose softmax is exactly the genotype: 0 at the choice, -inf elsewhere.

    An edge that the cell does not have chooses `none`. Shape `(edges, 5)`.
    """
    chosen = {(source, i): name for i, (name, source) in enumerate(genotype.recurrent, 1)}
    logits = torch.full((len(edges(genotype.nodes)), len(PRIMITIVES)), -torch.inf)
    for row, edge in enumerate(edges(genotype.nodes)):
        logits[row, PRIMITIVES.index(chosen.get(edge, "none"))] = 0.0
    return {KIND: logits}


def random_genotype(seed: int, nodes: int = NODES) -> RecurrentGenotype:
    """Draw a cell uniformly: for each node a source and an activation, as `derive` may choose."""
    draw = random.Random(seed)
    pairs = tuple((draw.choice(ACTIVATIONS), draw.randrange(node)) for node in range(1, nodes + 1))
    return RecurrentGenotype(pairs, tuple(range(1, nodes + 1)))


def find_genotype(name: str, seed: int = 0) -> RecurrentGenotype:
    """Return the recurrent genotype that `name` stands for.

    `name` is a published cell (`DARTS_V2`), `random` (drawn with `seed`), the path of a
    `genotype.json` or of a search's run folder, or a `Genotype(...)` text. Raises GenotypeError
    with the valid names for anything else.
    """
    return find_cell(name, read, PUBLISHED, partial(random_genotype, seed), "recurrent genotype")


def read(text: str) -> RecurrentGenotype:
    """Read a cell from JSON's lists or from its `Genotype(...)` text."""
    if text.lstrip().startswith("{"):
        return RecurrentGenotype.from_dict(load_json(text))
    return RecurrentGenotype.from_text(text)


def _cell(pairs: str, concat: Sequence[int]) -> RecurrentGenotype:
    """Read a cell from compact text: `activation.source` pairs."""
    split = [item.split(".") for item in pairs.split()]
    return RecurrentGenotype(tuple((name, int(source)) for name, source in split), tuple(concat))


PUBLISHED: dict[str, RecurrentGenotype] = {
    "ENAS": _cell(
        "tanh.0 tanh.1 relu.1 tanh.3 tanh.3 relu.3 relu.4 relu.7 relu.8 relu.8 relu.8",
        (2, 5, 6, 9, 10, 11),
    ),
    "DARTS_V1": _cell("relu.0 relu.1 tanh.2 relu.3 relu.4 identity.1 relu.5 relu.1", range(1, 9)),
    "DARTS_V2": _cell(
        "sigmoid.0 relu.1 relu.1 identity.1 tanh.2 sigmoid.5 tanh.3 relu.5", range(1, 9)
    ),
}
"""Published recurrent cells. DARTS_V1 and DARTS_V2 are two releases, not two orders of gradient."""
