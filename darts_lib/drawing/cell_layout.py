"""Where the parts of a drawn cell go, in inches: geometry only, nothing is drawn here.

States stand in columns, each to the right of everything it hears. A wire that crosses a column has
a lane of its own there, so no wire runs through a node or a name. Within a column the order is
found by moving one item at a time for as long as wires get shorter or cross less.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, combinations, pairwise

from darts_lib.genotype import Pair
from darts_lib.search_space import INPUTS

Point = tuple[float, float]
Route = tuple[Point, ...]
Item = int | tuple[int, int]
"""What stands in a column: a state, or the lane of a wire, which is (wire, column)."""

OUTPUT = -1
"""The output among the targets of wires; it stands in a column of its own, after all others."""

INPUT_WIDTH, OUTPUT_WIDTH = 0.40, 0.40
NODE_RADIUS = 0.15
ARROW, OUTPUT_ARROW = 0.24, 0.14
MARGIN = 0.06
NODE_GAP = 0.14
OUTPUT_GAP = 0.7
"""The gap before the output beside the others: its wires bear no names, so it may be narrower."""
LANE, TIGHT_LANE = 0.18, 0.10
"""Height of a wire's lane, in inches; tight in an animation, where nodes may not move."""


@dataclass(frozen=True)
class CellLayout:
    """Positions of a cell's parts, in inches; a route is the points a wire passes, in order."""

    states: dict[int, Point]
    output: Point
    names: tuple[Point, ...]
    routes: tuple[Route, ...]
    output_routes: dict[int, Route]


def depths(pairs: Sequence[Pair]) -> tuple[int, ...]:
    """Return each state's column: inputs 0, a node one more than the deepest state it hears."""
    column = [0] * INPUTS
    for first in range(0, len(pairs), 2):
        column.append(1 + max(column[source] for _, source in pairs[first : first + 2]))
    return tuple(column)


def tall(pairs: Sequence[Pair]) -> int:
    """Return the largest number of nodes one above the other."""
    column = depths(pairs)
    return max(column.count(place) for place in set(column))


def least_width(columns: int, name_width: float) -> float:
    """Return the width in inches below which a cell with so many columns of nodes is cramped."""
    block = name_width + ARROW + 2 * NODE_RADIUS + 0.1
    return 2 * MARGIN + INPUT_WIDTH + columns * block + OUTPUT_ARROW + OUTPUT_WIDTH


def one_a_column(pairs: Sequence[Pair]) -> tuple[int, ...]:
    """Return columns with one node each: the same places whatever the pairs, for an animation."""
    return (0,) * INPUTS + tuple(range(1, len(pairs) // 2 + 1))


class _Columns:
    """The order of nodes and lanes in each column, and how good it is. Heights are in inches."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        concat: Sequence[int],
        node_height: float,
        columns: Sequence[int] | None,
    ) -> None:
        self.wires = [(source, i // 2 + INPUTS) for i, (_, source) in enumerate(pairs)]
        self.wires += [(state, OUTPUT) for state in sorted(concat)]
        self.column = dict(enumerate(columns or depths(pairs)))
        self.last = self.column[OUTPUT] = max(self.column.values()) + 1
        # A wire's lanes: one in each column between its two ends.
        self.lanes = [
            [(wire, place) for place in range(self.column[source] + 1, self.column[target])]
            for wire, (source, target) in enumerate(self.wires)
        ]
        self.anchored = columns is not None
        self.node_height, self.lane_height = node_height, TIGHT_LANE if self.anchored else LANE
        self.items: list[list[Item]] = [[] for _ in range(self.last + 1)]
        for state, place in self.column.items():
            self.items[place].append(state)
        for lane in chain(*self.lanes):
            self.items[lane[1]].append(lane)

    def height(self, item: Item) -> float:
        """Return the height of a node with its two names, or of a lane."""
        return self.node_height if isinstance(item, int) else self.lane_height

    def middles(self) -> dict[Item, float]:
        """Return how high above the cell's middle each item has its own."""
        middles: dict[Item, float] = {}
        for items in self.items:
            at, y = {}, 0.0
            for item in items:
                at[item] = y - self.height(item) / 2
                y -= self.height(item)
            nodes = [at[item] for item in items if isinstance(item, int)]
            middle = nodes[0] if self.anchored and len(nodes) == 1 else y / 2
            middles |= {item: height - middle for item, height in at.items()}
        return middles

    def stops(self, wire: int, middles: dict[Item, float]) -> list[float]:
        """Return the heights a wire passes, from its source to its target, one a column."""
        source, target = self.wires[wire]
        passed: list[Item] = [source, *self.lanes[wire], target]
        return [middles[item] for item in passed]

    def cost(self) -> float:
        """Return crossings plus squared climbs; lower reads better."""
        middles = self.middles()
        spans: dict[int, list[Point]] = {}
        for wire, (source, _) in enumerate(self.wires):
            for step, span in enumerate(pairwise(self.stops(wire, middles))):
                spans.setdefault(self.column[source] + step, []).append(span)
        pairs = (pair for column in spans.values() for pair in combinations(column, 2))
        crossings = sum((a[0] - b[0]) * (a[1] - b[1]) < -1e-9 for a, b in pairs)
        climbs = sum((start - end) ** 2 for column in spans.values() for start, end in column)
        return crossings + 0.6 * climbs

    def improve(self) -> None:
        """Move single items while that helps; the inputs stay where they are."""
        before = math.inf
        while (cost := self.cost()) < before - 1e-9:
            before = cost
            for items in self.items[1:]:
                for item in list(items):
                    self._settle(items, item)

    def _settle(self, items: list[Item], item: Item) -> None:
        """Move an item to the best place of its column, of equally good ones to the nearest."""
        home, others = items.index(item), [other for other in items if other != item]

        def cost(place: int) -> tuple[float, int]:
            items[:] = [*others[:place], item, *others[place:]]
            return round(self.cost(), 9), abs(place - home)

        cost(min(range(len(items)), key=cost))


def layout_cell(
    pairs: Sequence[Pair],
    concat: Sequence[int],
    size: tuple[float, float],
    name_size: tuple[float, float],
    columns: Sequence[int] | None = None,
) -> CellLayout:
    """Place a cell in `size` inches; `name_size` is the room for an operation's name.

    `columns` gives each state's column; without it a node stands right after what it hears.
    """
    order = _Columns(pairs, concat, 2 * name_size[1] + NODE_GAP, columns)
    order.improve()
    block = name_size[0] + ARROW + NODE_RADIUS
    # The gaps before the columns of nodes are all alike.
    start, end, count = MARGIN + INPUT_WIDTH, size[0] - MARGIN - OUTPUT_WIDTH, order.last - 1
    gap = (end - OUTPUT_ARROW - start - count * (block + NODE_RADIUS)) / (count + OUTPUT_GAP)
    nodes = [start + i * (gap + block) + (i - 1) * NODE_RADIUS for i in range(1, order.last)]
    xs = [start - INPUT_WIDTH / 2, *nodes, end + OUTPUT_WIDTH / 2]
    middles = order.middles()
    scale, middle = 1.0, size[1] / 2
    if not order.anchored:  # all columns fill the height
        items = [item for column in order.items[1:-1] for item in column]
        low = min(middles[item] - order.height(item) / 2 for item in items)
        high = max(middles[item] + order.height(item) / 2 for item in items)
        scale = min(1.3, (size[1] - 2 * MARGIN) / (high - low))
        middle -= scale * (low + high) / 2
    ys = {item: middle + scale * height for item, height in middles.items()}
    for state in range(INPUTS):
        ys[state] = middle + (0.5 - state) * min(1.6, 0.6 * size[1])
    states = {state: (xs[place], ys[state]) for state, place in order.column.items()}

    def route(wire: int, end: Point) -> Route:
        points = [states[order.wires[wire][0]]]
        for lane in order.lanes[wire]:
            x, y = xs[lane[1]], ys[lane]
            points += [(x - block, y), (x + NODE_RADIUS, y)]
        return (*points, end)

    names: list[Point] = []
    for first in range(0, len(pairs), 2):  # left of the node, the wire from higher up on top
        x, y = states[first // 2 + INPUTS]
        arrivals = [order.stops(wire, middles)[-2] for wire in (first, first + 1)]
        away = math.copysign(name_size[1] / 2 + 0.02, arrivals[0] - arrivals[1])
        left = x - block + name_size[0] / 2
        names += [(left, y + away), (left, y - away)]
    output = states.pop(OUTPUT)
    before = (output[0] - OUTPUT_WIDTH / 2 - OUTPUT_ARROW, output[1])
    return CellLayout(
        states,
        output,
        tuple(names),
        tuple(route(i, (x - name_size[0] / 2, y)) for i, (x, y) in enumerate(names)),
        {state: route(i, before) for i, state in enumerate(sorted(concat), len(pairs))},
    )
