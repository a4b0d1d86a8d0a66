"""Pictures of cells in matplotlib. The alternative text of a picture is `describe_cell`.

A function that returns a Figure leaves none open in pyplot. Files are written by `cell_pictures`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, PathPatch
from matplotlib.path import Path as Curve
from matplotlib.typing import HashableList

from darts_lib.drawing.cell_layout import (
    NODE_RADIUS,
    OUTPUT_WIDTH,
    Point,
    depths,
    layout_cell,
    least_width,
    tall,
)
from darts_lib.drawing.plot_style import (
    GREY,
    HEIGHT,
    STROKES,
    WIDTH,
    Stroke,
    axes_or_new,
    axes_size,
    new_figure,
    stroke_of,
)
from darts_lib.genotype import Genotype, Pair
from darts_lib.search_space import INPUTS, KINDS, edges

FIRST_NODE = 0
"""The number written in the first node, as in the paper's figures."""

INPUT_NAMES = ("c_{k-2}", "c_{k-1}")
HEADINGS = {"normal": "Normal cell", "reduce": "Reduction cell"}
ONE_LINE, TWO_LINES = (1.10, 0.22), (0.74, 0.38)
"""Room for an operation's name in inches (width, height), on one line and on two."""

PLAIN = Stroke(GREY)


def node_name(state: int) -> str:
    """Return what a state is called in the description of a picture."""
    return f"input {state}" if state < INPUTS else f"node {state - INPUTS + FIRST_NODE}"


def describe_cell(pairs: Sequence[Pair]) -> str:
    """Say a cell in words, a sentence a node: the alternative text of its picture."""
    sentences = []
    for first in range(0, len(pairs), 2):
        terms = [f"{name} of {node_name(source)}" for name, source in pairs[first : first + 2]]
        sentences.append(f"{node_name(first // 2 + INPUTS)} adds {' and '.join(terms)}.")
    return " ".join(sentence.capitalize() for sentence in sentences)


# --- one cell ---------------------------------------------------------------------------------


def draw_cell(
    pairs: Sequence[Pair],
    concat: Sequence[int],
    ax: Axes | None = None,
    title: str = "",
    output: str = "c_{k}",
    columns: Sequence[int] | None = None,
) -> Axes:
    """Draw one cell: inputs left, output right, each edge with its operation's name on it.

    `pairs` and `concat` as in a genotype; `output` is the output's name in TeX's notation. Grey
    lines lead to the output, which joins the channels of the nodes in `concat`. `columns` gives
    each state's column, for an animation; without it a node stands right after what it hears.
    """
    ax = axes_or_new(ax, WIDTH, HEIGHT)
    ax.set_title(title)
    ax.set_axis_off()
    width, height = axes_size(ax)
    deepest = max(columns or depths(pairs))
    two_lines = width < 1.3 + 2.0 * deepest
    name_size = TWO_LINES if two_lines else ONE_LINE
    width = max(width, least_width(deepest, name_size[0]))
    layout = layout_cell(pairs, concat, (width, height), name_size, columns)
    ax.set(xlim=(0, width), ylim=(0, height))
    for state, route in layout.output_routes.items():
        _wire(ax, route, PLAIN, f"wire to output {state}")
        end = (layout.output[0] - OUTPUT_WIDTH / 2, layout.output[1])
        _arrow(ax, route[-1], end, PLAIN, f"output {state}")
    for i, (name, _) in enumerate(pairs):
        stroke = stroke_of(name)
        # The name hides the wire's last part, so names of any length meet their wire.
        _wire(ax, (*layout.routes[i], layout.names[i]), stroke, f"wire {i}")
        _arrow(ax, layout.names[i], layout.states[i // 2 + INPUTS], stroke, f"edge {i}")
        _operation(ax, layout.names[i], name, two_lines)
    _draw_states(ax, layout.states, layout.output, output)
    return ax


def _wire(ax: Axes, route: Sequence[Point], stroke: Stroke, gid: str) -> None:
    """Draw a smooth line through the points; it leaves and enters each level."""
    points, codes = [route[0]], [Curve.MOVETO]
    for number, ((x0, y0), (x1, y1)) in enumerate(zip(route, route[1:], strict=False)):
        if number % 2:  # along a lane
            points.append((x1, y1))
            codes.append(Curve.LINETO)
        else:
            middle = (x0 + x1) / 2
            points += [(middle, y0), (middle, y1), (x1, y1)]
            codes += [Curve.CURVE4] * 3
    width = 1.1 if stroke is PLAIN else 1.7
    curve = Curve(np.asarray(points), codes)
    style = {"ec": stroke.colour, "ls": stroke.line, "lw": width, "zorder": 1, "gid": gid}
    ax.add_patch(PathPatch(curve, fill=False, **style))


def _arrow(ax: Axes, start: Point, end: Point, stroke: Stroke, gid: str) -> None:
    """Draw the arrow that ends an edge; nodes and names lie above it."""
    radius = 0 if stroke is PLAIN else 72 * NODE_RADIUS
    arrow = FancyArrowPatch(
        start, end, arrowstyle="-|>", mutation_scale=9, shrinkA=0, shrinkB=radius,
        color=stroke.colour, lw=1.1 if stroke is PLAIN else 1.7, zorder=2, gid=gid,
    )  # fmt: skip
    ax.add_patch(arrow)


def _operation(ax: Axes, place: Point, name: str, two_lines: bool) -> None:
    head, _, tail = name.rpartition("_")
    text = f"{head}\n{tail}" if two_lines and head else name
    box = {"boxstyle": "round,pad=0.2", "fc": "white", "ec": stroke_of(name).colour, "lw": 1.2}
    ax.text(*place, text, ha="center", va="center", fontsize=10, linespacing=1.0, bbox=box,
            zorder=4, gid="operation")  # fmt: skip


def _draw_states(ax: Axes, states: Mapping[int, Point], output: Point, name: str) -> None:
    for state, (x, y) in states.items():
        if state < INPUTS:
            _box(ax, (x, y), INPUT_NAMES[state], "center", "input")
        else:
            ax.plot(x, y, "o", ms=2 * 72 * NODE_RADIUS, mfc="white", mec="black", zorder=3)
            number = str(state - INPUTS + FIRST_NODE)
            ax.text(x, y, number, ha="center", va="center", fontsize=11, zorder=4, gid="node")
    _box(ax, (output[0] - OUTPUT_WIDTH / 2 + 0.04, output[1]), name, "left", "output")


def _box(ax: Axes, place: Point, name: str, align: Literal["left", "center"], gid: str) -> None:
    box = {"boxstyle": "round,pad=0.25", "fc": "#EEEEEE", "ec": GREY}
    ax.text(*place, f"${name}$", ha=align, va="center", fontsize=11, bbox=box, zorder=4, gid=gid)


# --- several cells ----------------------------------------------------------------------------


def draw_genotype(genotype: Genotype) -> Figure:
    """Draw the normal and the reduction cell: stacked if they are deep, side by side if tall."""
    cells = [genotype.pairs(kind) for kind in KINDS]
    figure = new_figure(10.0, 4.5)
    if max(map(tall, cells)) <= 3:
        grid = figure.subplots(2, 1)
    else:
        grid = figure.subplots(1, 2, width_ratios=[max(depths(pairs)) + 0.6 for pairs in cells])
    for kind, ax in zip(KINDS, grid, strict=True):
        _draw_kind(genotype, kind, ax, HEADINGS[kind])
    return figure


def _draw_kind(genotype: Genotype, kind: str, ax: Axes, title: str) -> Axes:
    return draw_cell(genotype.pairs(kind), genotype.concat(kind), ax, title)


def compare_cells(genotypes: Mapping[str, Genotype], kind: str = "normal") -> Figure:
    """Draw the same kind of cell of several genotypes, each under its name.

    Two share a row; a cell more than two nodes deep has a row of its own, after the others.
    """
    deep = [name for name, cell in genotypes.items() if max(depths(cell.pairs(kind))) > 2]
    flat = [name for name in genotypes if name not in deep]
    rows = [flat[i : i + 2] for i in range(0, len(flat), 2)] + [[name, name] for name in deep]
    heights = [max(_row_height(genotypes[name].pairs(kind)) for name in row) for row in rows]
    mosaic: list[HashableList[str]] = [[row[0], row[1] if row[1:] else "."] for row in rows]
    figure = new_figure(10.0, sum(heights))
    for name, ax in figure.subplot_mosaic(mosaic, height_ratios=heights).items():
        _draw_kind(genotypes[name], kind, ax, name)
    return figure


def _row_height(pairs: Sequence[Pair]) -> float:
    """Return inches for a cell and its title: names take two lines where two nodes share half."""
    node = 0.92 if max(depths(pairs)) == 2 else 0.58
    return 0.7 + node * tall(pairs)


def draw_supercell(nodes: int = 4, by: str = "target", ax: Axes | None = None) -> Axes:
    """Draw the cell before selection: every state is heard by every node after it.

    Edges are coloured by the node they reach (`target`) or the state they leave (`source`). The
    states stand on an ellipse, so a straight line between two of them meets no third.
    """
    ax = axes_or_new(ax, WIDTH, HEIGHT)
    ax.set_axis_off()
    width, height = axes_size(ax)
    states = _on_ellipse(nodes, width, height)
    output = (width - 0.3, height / 2)
    for source, target in edges(nodes):
        number = {"target": target - INPUTS, "source": source}[by]
        stroke = STROKES[number % len(STROKES)]
        _straight(ax, states[source], states[target], stroke, f"edge {source} {target}")
    for state in range(INPUTS, INPUTS + nodes):
        _straight(ax, states[state], output, Stroke(GREY, ":"), f"output {state}")
    ax.set(xlim=(0, width), ylim=(0, height))
    _draw_states(ax, states, output, "c_{k}")
    return ax


def _on_ellipse(nodes: int, width: float, height: float) -> dict[int, Point]:
    """Place inputs at the left and nodes alternately above and below, from left to right."""
    places = {}
    for state in range(INPUTS + nodes):
        along = -0.86 if state < INPUTS else -0.5 + 1.25 * (state - INPUTS) / max(nodes - 0.5, 1)
        side = 1 if state % 2 == 0 else -1
        up = side * math.sqrt(1 - along**2)
        places[state] = (
            0.1 + (width - 0.4) * (along + 1) / 2,
            height / 2 + up * (height / 2 - 0.2),
        )
    return places


def _straight(ax: Axes, start: Point, end: Point, stroke: Stroke, gid: str) -> None:
    shrink = 72 * NODE_RADIUS
    arrow = FancyArrowPatch(
        start, end, arrowstyle="-|>", mutation_scale=11, shrinkA=shrink, shrinkB=shrink + 1,
        color=stroke.colour, ls=stroke.line, lw=1.5, zorder=1, gid=gid,
    )  # fmt: skip
    ax.add_patch(arrow)
