"""What can be built: primitives, the cell graph, the macro layout, and how many cells there are.

Nothing here computes; these are the names, rows and counts that the other modules share.
Source: DARTS paper, section 2.1 and appendix A.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, count, product
from math import comb, prod

import torch
from torch import Tensor

from darts_lib.engine.refusals import unknown

PRIMITIVES = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
"""The candidate operations of an edge, in the order of alpha's columns."""

EXTRA_PRIMITIVES = ("sep_conv_7x7", "conv_7x1_1x7")
"""Operations that only the NASNet and AmoebaNet cells use; the search does not offer them."""

OWN_PRIMITIVES: list[str] = []
"""Operations that a reader added with `operations.add_operation`."""

INPUTS = 2
"""A cell reads two states, the outputs of the two cells before it; a recurrent cell reads one."""

KEPT = 2
"""Edges that each node of a derived cell keeps; a recurrent node keeps one."""

KINDS = ("normal", "reduce")
"""A normal cell keeps the image size, a reduction cell halves it and doubles the channels."""


def edges(nodes: int = 4, inputs: int = INPUTS) -> tuple[tuple[int, int], ...]:
    """Return (source, target) of every edge, in the order of alpha's rows.

    The first `inputs` states are the inputs, the next `nodes` the nodes; each node hears all states
    before it: 14 edges for four nodes, 36 for eight nodes of a recurrent cell.
    """
    if nodes < 1:
        raise ValueError(f"nodes must be at least 1, not {nodes}: a cell without nodes is empty.")
    targets = range(inputs, inputs + nodes)
    return tuple((source, target) for target in targets for source in range(target))


def row_offset(target: int, inputs: int = INPUTS) -> int:
    """Return alpha's first row for the edges into state `target`: 0, 2, 5, 9 for states 2 to 5."""
    return sum(range(inputs, target))


def nodes_of(edge_count: int, inputs: int = INPUTS) -> int:
    """Return the number of nodes whose cell has `edge_count` edges (14 edges: 4 nodes)."""
    nodes = next(n for n in count(1) if len(edges(n, inputs)) >= edge_count)
    if len(edges(nodes, inputs)) != edge_count:
        near = [len(edges(n, inputs)) for n in range(max(1, nodes - 1), nodes + 1)]
        raise ValueError(f"no cell has {edge_count} edges; the nearest sizes have {near}.")
    return nodes


def allowed(
    edge_primitives: Mapping[str, Sequence[Sequence[str]]],
    primitives: Sequence[str] = PRIMITIVES,
    nodes: int = 4,
) -> dict[str, Tensor]:
    """Return which primitives an edge may have, for each kind bool `(edges, primitives)`.

    `edge_primitives` lists for each kind, for each edge in the order of alpha's rows, the names
    that it may have; a kind that is not there may have all of them everywhere. A logit of -inf
    where this is False has the weight 0. Raises ValueError for a kind, a number of edges or a name
    that does not exist, and for a node that could not keep its two edges: `none` is never kept.
    """
    if odd := [kind for kind in edge_primitives if kind not in KINDS]:
        raise ValueError(f"edge_primitives: {unknown('kind of cell', odd[0], KINDS)}")
    masks = {}
    for kind in KINDS:
        rows = edge_primitives.get(kind, [primitives] * len(edges(nodes)))
        _check_rows(f"edge_primitives[{kind!r}]", rows, primitives, nodes)
        masks[kind] = torch.tensor([[name in names for name in primitives] for names in rows])
    return masks


def _check_rows(
    where: str, rows: Sequence[Sequence[str]], primitives: Sequence[str], nodes: int
) -> None:
    if len(rows) != len(edges(nodes)):
        raise ValueError(
            f"{where} lists {len(rows)} edges, but a cell of {nodes} nodes has "
            f"{len(edges(nodes))}; list the names of each, in the order of edges({nodes})."
        )
    free = Counter[int]()
    for (source, target), names in zip(edges(nodes), rows, strict=True):
        edge = f"{where}, edge {source} to {target}"
        if odd := [name for name in names if name not in primitives]:
            raise ValueError(f"{edge}: {unknown('primitive', odd[0], primitives)}")
        if not names:
            raise ValueError(f"{edge}: no name; write ['none'] to leave it out.")
        free[target] += any(name != "none" for name in names)
    for target in range(INPUTS, INPUTS + nodes):
        if free[target] < KEPT:
            raise ValueError(
                f"{where}: node {target} keeps {KEPT} edges, but only {free[target]} of its edges "
                "may have an operation other than 'none'; allow one on another edge."
            )


def reductions(layers: int) -> tuple[int, ...]:
    """Return the indices of the reduction cells: one third and two thirds of the way."""
    if layers < 1:
        raise ValueError(f"layers must be at least 1, not {layers}.")
    return tuple(sorted({layers // 3, 2 * layers // 3}))


@dataclass(frozen=True)
class CellPlan:
    """Where one cell stands in the network and how many channels meet in it."""

    kind: str
    channels: int
    channels_before_previous: int
    channels_previous: int
    previous_reduces: bool

    @property
    def reduces(self) -> bool:
        """Whether the edges from the cell's inputs have stride 2."""
        return self.kind == "reduce"


@dataclass(frozen=True)
class Stem:
    """What the first cell reads: channels of its two inputs; whether the second is half size."""

    channels: tuple[int, int]
    reduces: bool = False


def plan_cells(
    channels: int, layers: int, concat_sizes: dict[str, int], stem: Stem
) -> Sequence[CellPlan]:
    """Lay out the cells of a network; channels double at each reduction cell.

    `concat_sizes` gives, for each kind, how many nodes a cell joins in its output: a cell with C
    channels puts out `concat_sizes[kind] * C`. Source: paper, section 3.1.
    """
    (before, previous), previous_reduces = stem.channels, stem.reduces
    plans: list[CellPlan] = []
    for index in range(layers):
        kind = "reduce" if index in reductions(layers) else "normal"
        channels *= 2 if kind == "reduce" else 1
        plans.append(CellPlan(kind, channels, before, previous, previous_reduces))
        before, previous = previous, channels * concat_sizes[kind]
        previous_reduces = kind == "reduce"
    return plans


def count_cells(nodes: int = 4, operations: int = 7, inputs: int = INPUTS, kept: int = KEPT) -> int:
    """Count the discrete cells: each node keeps so many sources and has an operation for each.

        product over nodes of  C(sources, kept) operations^kept

    1,037,664,180 for four nodes and the seven primitives without `none`, squared for a pair; for a
    recurrent cell of eight nodes and four activations 8! 4^8 = 2,642,411,520.
    """
    return prod(comb(inputs + node, kept) * operations**kept for node in range(nodes))


def list_cells(nodes: int, operations: Sequence[str]) -> Iterator[tuple[object, ...]]:
    """Yield every discrete cell: for each node two of its sources, and an operation on each."""
    choices = [
        [
            tuple(zip(pair, chosen, strict=True))
            for pair in combinations(range(n + 1), 2)
            for chosen in product(operations, repeat=2)
        ]
        for n in range(1, nodes + 1)
    ]
    return product(*choices)


def count_relaxed_cells(nodes: int = 4, operations: int = 8) -> int:
    """Count the cells with one operation on every edge, none included: 8^14 for four nodes."""
    return int(operations ** len(edges(nodes)))
