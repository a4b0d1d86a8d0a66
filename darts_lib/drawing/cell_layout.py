"""Where the parts of a drawn cell go, in inches: geometry only, nothing is drawn here.

States stand in columns, each to the right of everything it hears. A wire that crosses a column has
a lane of its own there, so no wire runs through a node or a name. Within a column the order is
found by moving one item at a time for as long as wires get shorter or cross less.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from darts_lib.genotype import Pair
from darts_lib.search_space import INPUTS

Point = tuple[float, float]

INPUT_WIDTH, OUTPUT_WIDTH = 0.56, 0.40
NODE_RADIUS = 0.15
ARROW, OUTPUT_ARROW = 0.24, 0.14
MARGIN = 0.06
NODE_GAP = 0.14
OUTPUT_GAP = 0.7
"""The gap before the output beside the others: its wires bear no names, so it may be narrower."""
LANE, TIGHT_LANE = 0.18, 0.10
"""Height of a wire's lane, in inches; tight in an animation, where nodes may not move."""


@dataclass(frozen=True)
class Wire:
    """A line from a state to a node, or to the output, whose `target` is -1."""

    source: int
    target: int


@dataclass(frozen=True)
class CellLayout:
    """Positions of a cell's parts, in inches; a route is the points a wire passes, in order."""

    states: dict[int, Point]
    output: Point
    names: tuple[Point, ...]
    routes: tuple[tuple[Point, ...], ...]
    output_routes: dict[int, tuple[Point, ...]]


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
        self, wires: Sequence[Wire], column: Sequence[int], node: float, anchored: bool
    ) -> None:
        self.wires, self.column, self.anchored = wires, column, anchored
        self.sizes = (node, TIGHT_LANE if anchored else LANE)
        self.last = max(column) + 1
        # An item is a state (0 and up) or the lane of wire w (-1 - w).
        self.items: list[list[int]] = [[] for _ in range(self.last)]
        for state, place in enumerate(column):
            self.items[place].append(state)
        for number, wire in enumerate(wires):
            for place in range(column[wire.source] + 1, self._end(wire)):
                self.items[place].append(-1 - number)

    def _end(self, wire: Wire) -> int:
        return self.last if wire.target < 0 else self.column[wire.target]

    def size(self, item: int) -> float:
        """Return the height of a state's block or of a lane."""
        return self.sizes[item < 0]

    def stack(self, items: Sequence[int]) -> dict[int, float]:
        """Return each item's height above the middle."""
        at, y = {}, 0.0
        for item in items:
            at[item] = y - self.size(item) / 2
            y -= self.size(item)
        nodes = [height for item, height in at.items() if item >= 0]
        middle = nodes[0] if self.anchored and len(nodes) == 1 else y / 2
        return {item: height - middle for item, height in at.items()}

    def stops(self, number: int, heights: Sequence[dict[int, float]]) -> list[float]:
        """Return the heights a wire passes, from its source to its end, one a column."""
        wire = self.wires[number]
        start, end = self.column[wire.source], self._end(wire)
        lanes = [heights[place][-1 - number] for place in range(start + 1, end)]
        finish = 0.0 if wire.target < 0 else heights[end][wire.target]
        return [heights[start][wire.source], *lanes, finish]

    def cost(self) -> float:
        """Return crossings plus squared climbs; lower reads better."""
        heights = [self.stack(items) for items in self.items]
        spans: dict[int, list[Point]] = {}
        for number, wire in enumerate(self.wires):
            stops = self.stops(number, heights)
            for step, span in enumerate(zip(stops, stops[1:], strict=False)):
                spans.setdefault(self.column[wire.source] + step, []).append(span)
        return sum(map(_tangle, spans.values()))

    def improve(self) -> None:
        """Move single items while that helps; the inputs stay where they are."""
        best, improved = self.cost(), True
        while improved:
            improved = False
            for items in self.items[1:]:
                for item in list(items):
                    cost = self._best_place(items, item)
                    improved |= cost < best - 1e-9
                    best = cost

    def _best_place(self, items: list[int], item: int) -> float:
        home = items.index(item)
        costs = []
        for place in range(len(items)):
            items.remove(item)
            items.insert(place, item)
            costs.append((round(self.cost(), 9), abs(place - home), place))
        cost, _, place = min(costs)
        items.remove(item)
        items.insert(place, item)
        return cost


def _tangle(spans: Sequence[Point]) -> float:
    pairs = combinations(spans, 2)
    crossings = sum((a[0] - b[0]) * (a[1] - b[1]) < -1e-9 for a, b in pairs)
    return crossings + 0.6 * sum((start - end) ** 2 for start, end in spans)


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
    wires = [Wire(source, i // 2 + INPUTS) for i, (_, source) in enumerate(pairs)]
    wires += [Wire(state, -1) for state in sorted(concat)]
    node = 2 * name_size[1] + NODE_GAP
    places = _Columns(wires, columns or depths(pairs), node, anchored=columns is not None)
    places.improve()
    return _Placer(places, size, name_size).place(len(pairs))


class _Placer:
    """Turns the order within columns into positions."""

    def __init__(
        self, places: _Columns, size: tuple[float, float], name_size: tuple[float, float]
    ) -> None:
        self.places, self.name_size, self.height = places, name_size, size[1]
        self.heights = [places.stack(items) for items in places.items]
        self.input_x = MARGIN + INPUT_WIDTH / 2
        self.output_x = size[0] - MARGIN - OUTPUT_WIDTH / 2
        self.block = name_size[0] + ARROW + NODE_RADIUS
        low, high = self._extremes()
        self.scale, self.middle = 1.0, size[1] / 2
        if not places.anchored:
            self.scale = min(1.3, (size[1] - 2 * MARGIN) / (high - low))
            self.middle -= self.scale * (low + high) / 2

    def _extremes(self) -> tuple[float, float]:
        edges = [
            height + sign * self.places.size(item) / 2
            for sign in (-1, 1)
            for column in self.heights[1:]
            for item, height in column.items()
        ]
        return min(edges), max(edges)

    def x(self, column: int) -> float:
        """Return the middle of a column's nodes; the gaps before the columns are all alike."""
        if column == 0:
            return self.input_x
        left = self.input_x + INPUT_WIDTH / 2
        room = self.output_x - OUTPUT_WIDTH / 2 - OUTPUT_ARROW - left
        count = self.places.last - 1
        gap = (room - count * (self.block + NODE_RADIUS)) / (count + OUTPUT_GAP)
        return left + column * (gap + self.block) + (column - 1) * NODE_RADIUS

    def y(self, height: float) -> float:
        """Return inches from the bottom for a height above the middle."""
        return self.middle + self.scale * height

    def place(self, pair_count: int) -> CellLayout:
        """Return all positions."""
        states = {
            state: (self.x(place), self.y(self.heights[place][state]))
            for state, place in enumerate(self.places.column)
        }
        for state in range(INPUTS):
            spread = (0.5 - state) * min(1.6, 0.6 * self.height)
            states[state] = (self.input_x, self.middle + spread)
        names = self._names(pair_count, states)
        output = (self.output_x, self.y(0.0))
        before = (output[0] - OUTPUT_WIDTH / 2 - OUTPUT_ARROW, output[1])
        half = self.name_size[0] / 2
        routes = [self._route(i, states, (x - half, y)) for i, (x, y) in enumerate(names)]
        wires = list(enumerate(self.places.wires))[pair_count:]
        outputs = {wire.source: self._route(i, states, before) for i, wire in wires}
        return CellLayout(states, output, tuple(names), tuple(routes), outputs)

    def _names(self, pair_count: int, states: dict[int, Point]) -> list[Point]:
        """Put a node's two names left of it, the wire from higher up above the other."""
        names: list[Point] = [(0.0, 0.0)] * pair_count
        for first in range(0, pair_count, 2):
            x, y = states[first // 2 + INPUTS]
            left = x - self.block + self.name_size[0] / 2
            arrivals = [self.places.stops(i, self.heights)[-2] for i in (first, first + 1)]
            away = math.copysign(self.name_size[1] / 2 + 0.02, arrivals[0] - arrivals[1])
            names[first : first + 2] = [(left, y + away), (left, y - away)]
        return names

    def _route(self, number: int, states: dict[int, Point], end: Point) -> tuple[Point, ...]:
        wire = self.places.wires[number]
        points = [states[wire.source]]
        start = self.places.column[wire.source]
        for step, height in enumerate(self.places.stops(number, self.heights)[1:-1], start + 1):
            x = self.x(step)
            points += [(x - self.block, self.y(height)), (x + NODE_RADIUS, self.y(height))]
        return (*points, end)
