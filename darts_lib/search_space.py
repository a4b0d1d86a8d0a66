"""What can be built: primitives, the cell graph, the macro layout, and how many cells there are.

Nothing here computes; these are the names and the counts that the other modules share.
Source: DARTS paper, section 2.1 and appendix A.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

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
"""A cell reads two states: the outputs of the two cells before it."""

KINDS = ("normal", "reduce")
"""A normal cell keeps the image size, a reduction cell halves it and doubles the channels."""


def edges(nodes: int = 4) -> tuple[tuple[int, int], ...]:
    """Return (source, target) of every edge, in the order of alpha's rows.

    States 0 and 1 are the inputs, 2 to `nodes + 1` the nodes; each node hears all states before it.
    """
    if nodes < 1:
        raise ValueError(f"nodes must be at least 1, not {nodes}: a cell without nodes is empty.")
    targets = range(INPUTS, INPUTS + nodes)
    return tuple((source, target) for target in targets for source in range(target))


def row_offset(target: int) -> int:
    """Return alpha's first row for the edges into state `target`: 0, 2, 5, 9 for states 2 to 5."""
    return sum(range(INPUTS, target))


def nodes_of(edge_count: int) -> int:
    """Return the number of nodes whose cell has `edge_count` edges (14 edges: 4 nodes)."""
    nodes = 1
    while len(edges(nodes)) < edge_count:
        nodes += 1
    if len(edges(nodes)) != edge_count:
        near = [len(edges(n)) for n in range(max(1, nodes - 1), nodes + 1)]
        raise ValueError(f"no cell has {edge_count} edges; the nearest sizes have {near}.")
    return nodes


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
    before, previous = stem.channels
    previous_reduces = stem.reduces
    plans: list[CellPlan] = []
    for index in range(layers):
        kind = "reduce" if index in reductions(layers) else "normal"
        channels *= 2 if kind == "reduce" else 1
        plans.append(CellPlan(kind, channels, before, previous, previous_reduces))
        before, previous = previous, channels * concat_sizes[kind]
        previous_reduces = kind == "reduce"
    return plans


def count_cells(nodes: int = 4, operations: int = 7) -> int:
    """Count the discrete cells: each node takes two of its sources and an operation for each.

    1,037,664,180 for four nodes and the seven primitives without `none`; squared for a pair.
    """
    return prod((k + 1) * k // 2 * operations**2 for k in range(1, nodes + 1))


def count_relaxed_cells(nodes: int = 4, operations: int = 8) -> int:
    """Count the cells with one operation on every edge, none included: 8^14 for four nodes."""
    return int(operations ** len(edges(nodes)))
