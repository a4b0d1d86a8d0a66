"""Pictures of recurrent cells. The alternative text of a picture is `describe_recurrent_cell`.

Each node hears one earlier state, so a cell is a tree. It grows from left to right, and each node
has a row of its own or that of its first child: no line can meet a name or another line.
"""

from matplotlib.axes import Axes

from darts_lib.drawing import plot_style as style
from darts_lib.drawing.cell_layout import ARROW, NODE_RADIUS, Point
from darts_lib.drawing.cell_plots import draw_arrow, draw_box, draw_name, draw_node, draw_wire
from darts_lib.drawing.plot_style import Stroke
from darts_lib.recurrent.genotype import RecurrentGenotype

ACTIVATION_STROKES = {
    "none": Stroke(style.GREY, ":", "x"),
    "tanh": Stroke(style.BLUE, "-", "o"),
    "relu": Stroke(style.VERMILION, "--", "s"),
    "sigmoid": Stroke(style.GREEN, "-.", "^"),
    "identity": Stroke(style.BLACK, ":", "D"),
}
"""An activation looks the same in every figure: by colour, by line and by marker."""

INPUT, FIRST, COLUMN, ROW = 0.36, 1.05, 1.42, 0.44
"""Inches: centre of the inputs, of state 0; least distance of two columns and of two rows."""

NAME_WIDTH, MARGIN, NOTE = 0.74, 0.08, 0.42


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
    columns = [0]
    for _, source in genotype.recurrent:
        columns.append(columns[source] + 1)
    return columns


def rows(genotype: RecurrentGenotype) -> list[int]:
    """Return each state's row: a first child stays in its parent's, a later one has a new row."""
    children: list[list[int]] = [[] for _ in range(genotype.nodes + 1)]
    for node, (_, source) in enumerate(genotype.recurrent, 1):
        children[source].append(node)
    taken, free, waiting = [0] * len(children), 0, [0]
    while waiting:
        state = waiting.pop()
        taken[state] = free
        if not children[state]:
            free += 1
        waiting += reversed(children[state])
    return taken


def least_size(genotype: RecurrentGenotype) -> tuple[float, float]:
    """Return the least width and height, in inches, in which nothing of a cell overlaps."""
    width = FIRST + COLUMN * max(depths(genotype)) + NODE_RADIUS + MARGIN
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
    size = least[0] + 0.3, least[1] + (0.5 if title else 0.2)
    ax, width, height = style.cell_axes(ax, *size, title)
    if width < least[0] - 0.01 or height < least[1] - 0.01:
        raise ValueError(
            f"the axes measure {width:.1f} x {height:.1f} inches, and this cell needs "
            f"{least[0]:.1f} x {least[1]:.1f}; give a larger figure, or no axes."
        )
    column, row = depths(genotype), rows(genotype)
    wide = min((width - FIRST - NODE_RADIUS - MARGIN) / max(column), 1.5 * COLUMN)
    tall = (height - NOTE) / (max(row) + 1)
    places = zip(column, row, strict=True)
    states = [(FIRST + wide * c, height - tall * (r + 0.5)) for c, r in places]
    for node, (name, source) in enumerate(genotype.recurrent, 1):
        _edge(ax, states[source], states[node], name)
    # Both inputs of state 0, one above the other where the room allows it.
    middle = min(max(states[0][1], NOTE + ROW), height - ROW)
    for name, y in (("x_t", middle + ROW / 2), ("h_{t-1}", middle - ROW / 2)):
        draw_box(ax, (INPUT, y), name, "input")
        draw_arrow(ax, (INPUT, y), states[0], Stroke(style.GREY))
    for state, place in enumerate(states):
        face = "#DDDDDD" if state in genotype.concat else "white"
        draw_node(ax, place, str(state), "state", face)
    note = f"output: mean of {_listed(genotype.concat)} (shaded)"
    ax.text(width / 2, 0.16, note, ha="center", va="center", fontsize=10, gid="output")
    return ax


def _edge(ax: Axes, start: Point, end: Point, name: str) -> None:
    """Draw a line from a state to the name before the node, and an arrow from there."""
    stroke = ACTIVATION_STROKES[name]
    place = (end[0] - NODE_RADIUS - ARROW - NAME_WIDTH / 2, end[1])
    left, right = start[0] + NODE_RADIUS, place[0] - NAME_WIDTH / 2 + 0.05
    draw_wire(ax, [(left, start[1]), (right, end[1]), place], stroke, "wire")
    draw_arrow(ax, place, end, stroke)
    draw_name(ax, place, name, stroke, "activation")
