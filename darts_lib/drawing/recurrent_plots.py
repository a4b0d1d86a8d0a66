"""Pictures of recurrent cells. The alternative text of a picture is `describe_recurrent_cell`.

Each node hears one earlier state, so a cell is a tree. It grows from left to right, and each node
has a row of its own or that of its first child: no line can meet a name or another line.
"""

from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, PathPatch
from matplotlib.path import Path as Curve

from darts_lib.drawing.plot_style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    VERMILION,
    Stroke,
    axes_or_new,
    axes_size,
)
from darts_lib.recurrent.genotype import RecurrentGenotype

ACTIVATION_STROKES = {
    "none": Stroke(GREY, ":", "x"),
    "tanh": Stroke(BLUE, "-", "o"),
    "relu": Stroke(VERMILION, "--", "s"),
    "sigmoid": Stroke(GREEN, "-.", "^"),
    "identity": Stroke(BLACK, ":", "D"),
}
"""An activation looks the same in every figure: by colour, by line and by marker."""

Point = tuple[float, float]

RADIUS = 0.15
INPUT, FIRST, COLUMN, ROW = 0.36, 1.05, 1.42, 0.44
"""Inches: centre of the inputs, of state 0; least distance of two columns and of two rows."""

NAME_WIDTH, ARROW, MARGIN, NOTE = 0.74, 0.24, 0.08, 0.42


def describe_recurrent_cell(genotype: RecurrentGenotype) -> str:
    """Say a cell in words, a sentence a node: the alternative text of its picture."""
    pairs = enumerate(genotype.recurrent, 1)
    parts = [f"State {node} takes {name} of state {source}." for node, (name, source) in pairs]
    return " ".join([*parts, f"The output is the mean of {_listed(genotype.concat)}."])


def _listed(states: tuple[int, ...]) -> str:
    """Write states in a row as `states 1 to 8`, others one by one."""
    if len(states) > 2 and states == tuple(range(states[0], states[-1] + 1)):
        return f"states {states[0]} to {states[-1]}"
    word = "states" if len(states) > 1 else "state"
    return f"{word} {', '.join(map(str, states))}"


def depths(genotype: RecurrentGenotype) -> list[int]:
    """Return how many nodes lie between each state and state 0, the node itself counted."""
    found = [0]
    for _, source in genotype.recurrent:
        found.append(found[source] + 1)
    return found


def rows(genotype: RecurrentGenotype) -> list[int]:
    """Return each state's row: a first child stays in its parent's, a later one has a new row."""
    children: list[list[int]] = [[] for _ in range(genotype.nodes + 1)]
    for node, (_, source) in enumerate(genotype.recurrent, 1):
        children[source].append(node)
    found, free, waiting = [0] * len(children), 0, [0]
    while waiting:
        state = waiting.pop()
        found[state] = free
        if not children[state]:
            free += 1
        waiting += reversed(children[state])
    return found


def least_size(genotype: RecurrentGenotype) -> tuple[float, float]:
    """Return the least width and height, in inches, in which nothing of a cell overlaps."""
    width = FIRST + COLUMN * max(depths(genotype)) + RADIUS + MARGIN
    height = max(ROW * (max(rows(genotype)) + 1), 2 * ROW) + NOTE
    return max(width, 4.0), height


def draw_recurrent_cell(
    genotype: RecurrentGenotype, ax: Axes | None = None, title: str = ""
) -> Axes:
    """Draw a cell: word and hidden state left, each edge with its activation's name on it.

    The cell puts out the mean of the shaded states. Without `ax` the figure is as large as the
    cell needs; raises ValueError for axes that are smaller.
    """
    least = least_size(genotype)
    ax = axes_or_new(ax, least[0] + 0.3, least[1] + (0.5 if title else 0.2))
    ax.set_title(title)
    ax.set_axis_off()
    width, height = axes_size(ax)
    if width < least[0] - 0.01 or height < least[1] - 0.01:
        raise ValueError(
            f"the axes measure {width:.1f} x {height:.1f} inches, and this cell needs "
            f"{least[0]:.1f} x {least[1]:.1f}; give a larger figure, or no axes."
        )
    ax.set(xlim=(0, width), ylim=(0, height))
    states = _places(genotype, width, height)
    for node, (name, source) in enumerate(genotype.recurrent, 1):
        _edge(ax, states[source], states[node], name)
    _inputs(ax, states[0])
    for state, (x, y) in enumerate(states):
        face = "#DDDDDD" if state in genotype.concat else "white"
        ax.plot(x, y, "o", ms=2 * 72 * RADIUS, mfc=face, mec=BLACK, zorder=3)
        ax.text(x, y, str(state), ha="center", va="center", fontsize=11, zorder=4, gid="state")
    note = f"output: mean of {_listed(genotype.concat)} (shaded)"
    ax.text(width / 2, 0.16, note, ha="center", va="center", fontsize=10, gid="output")
    return ax


def _places(genotype: RecurrentGenotype, width: float, height: float) -> list[Point]:
    column, row = depths(genotype), rows(genotype)
    wide = min((width - FIRST - RADIUS - MARGIN) / max(column), 1.5 * COLUMN)
    tall = (height - NOTE) / (max(row) + 1)
    return [(FIRST + wide * c, height - tall * (r + 0.5)) for c, r in zip(column, row, strict=True)]


def _edge(ax: Axes, start: Point, end: Point, name: str) -> None:
    """Draw a line from a state to the name before the node, and an arrow from there."""
    stroke = ACTIVATION_STROKES[name]
    place = (end[0] - RADIUS - ARROW - NAME_WIDTH / 2, end[1])
    left, right = start[0] + RADIUS, place[0] - NAME_WIDTH / 2 + 0.05
    middle = (left + right) / 2
    points = [(left, start[1]), (middle, start[1]), (middle, end[1]), (right, end[1]), place]
    codes = [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4, Curve.LINETO]
    style = {"ec": stroke.colour, "ls": stroke.line, "lw": 1.7, "zorder": 1, "gid": "wire"}
    ax.add_patch(PathPatch(Curve(points, codes), fill=False, **style))
    _arrow(ax, place, end, stroke.colour)
    box = {"boxstyle": "round,pad=0.2", "fc": "white", "ec": stroke.colour, "lw": 1.2}
    ax.text(*place, name, ha="center", va="center", fontsize=10, bbox=box, zorder=4,
            gid="activation")  # fmt: skip


def _arrow(ax: Axes, start: Point, end: Point, colour: str) -> None:
    arrow = FancyArrowPatch(
        start, end, arrowstyle="-|>", mutation_scale=9, shrinkA=0, shrinkB=72 * RADIUS,
        color=colour, lw=1.7, zorder=2, gid="arrow",
    )  # fmt: skip
    ax.add_patch(arrow)


def _inputs(ax: Axes, first: Point) -> None:
    """Draw the two inputs of state 0, one above the other where the room allows it."""
    box = {"boxstyle": "round,pad=0.25", "fc": "#EEEEEE", "ec": GREY}
    top = ax.get_ylim()[1]
    middle = min(max(first[1], NOTE + ROW), top - ROW)
    for name, y in (("x_t", middle + ROW / 2), ("h_{t-1}", middle - ROW / 2)):
        ax.text(INPUT, y, f"${name}$", ha="center", va="center", fontsize=11, bbox=box, zorder=4,
                gid="input")  # fmt: skip
        _arrow(ax, (INPUT, y), first, GREY)
