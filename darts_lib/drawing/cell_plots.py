"""Pictures of cells in matplotlib, and as files. `describe_cell` is a picture's alternative text.

A function that returns a Figure leaves none open in pyplot. Recurrent cells have the same parts.
"""

import io
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, PathPatch
from matplotlib.path import Path as Curve
from matplotlib.typing import HashableList
from PIL import Image

from darts_lib.drawing import cell_layout, plot_style
from darts_lib.drawing.cell_layout import NODE_RADIUS, OUTPUT_WIDTH, Point, depths, tall
from darts_lib.drawing.plot_style import GREY, HEIGHT, STROKES, WIDTH, Stroke, cell_axes, new_figure
from darts_lib.engine.files import check_target, write_whole
from darts_lib.genotype import Genotype, Pair
from darts_lib.search_space import INPUTS, KINDS, edges

HEADINGS = {"normal": "Normal cell", "reduce": "Reduction cell"}
ONE_LINE, TWO_LINES = (1.10, 0.22), (0.74, 0.38)
"""Room for an operation's name in inches (width, height), on one line and on two."""

PLAIN = Stroke(GREY)


def describe_cell(pairs: Sequence[Pair]) -> str:
    """Say a cell in words, a sentence a node: the alternative text of its picture."""
    sentences = []
    for first in range(0, len(pairs), 2):
        terms = [f"{name} of state {source}" for name, source in pairs[first : first + 2]]
        sentences.append(f"Node {first // 2 + INPUTS} adds {' and '.join(terms)}.")
    return " ".join(sentences)


def draw_cell(
    pairs: Sequence[Pair],
    concat: Sequence[int],
    ax: Axes | None = None,
    title: str = "",
    columns: Sequence[int] | None = None,
) -> Axes:
    """Draw one cell: inputs left, output right, each edge with its operation's name on it.

    `pairs` and `concat` as in a genotype, `columns` as in `layout_cell`. Grey lines lead to the
    output, which joins the channels of the nodes in `concat`.
    """
    ax, width, height = cell_axes(ax, WIDTH, HEIGHT, title)
    deepest = max(columns or depths(pairs))
    two_lines = width < 1.3 + 2.0 * deepest
    name_size = TWO_LINES if two_lines else ONE_LINE
    width = max(width, cell_layout.least_width(deepest, name_size[0]))
    layout = cell_layout.layout_cell(pairs, concat, (width, height), name_size, columns)
    ax.set_xlim(0, width)
    for state, route in layout.output_routes.items():
        draw_wire(ax, route, PLAIN, f"wire to output {state}")
        end = (layout.output[0] - OUTPUT_WIDTH / 2, layout.output[1])
        draw_arrow(ax, route[-1], end, PLAIN, gid=f"output {state}")
    for i, (name, _) in enumerate(pairs):
        stroke, place = plot_style.stroke_of(name), layout.names[i]
        # The name hides the wire's last part, so names of any length meet their wire.
        draw_wire(ax, (*layout.routes[i], place), stroke, f"wire {i}")
        draw_arrow(ax, place, layout.states[i // 2 + INPUTS], stroke, gid=f"edge {i}")
        text = "\n".join(name.rsplit("_", 1)) if two_lines else name
        draw_name(ax, place, text, stroke, "operation")
    _draw_states(ax, layout.states, layout.output)
    return ax


def _draw_states(ax: Axes, states: Mapping[int, Point], output: Point) -> None:
    for state, (x, y) in states.items():
        if state < INPUTS:
            name = ("$c_{k-2}$", "$c_{k-1}$")[state]
            up, align = (1, "bottom") if state == 0 else (-1, "top")
            ax.text(x, y + up * (NODE_RADIUS + 0.04), name, ha="center", va=align, fontsize=10,
                    gid="input")  # fmt: skip
        gid, face = ("state", "#EEEEEE") if state < INPUTS else ("node", "white")
        draw_node(ax, (x, y), str(state), gid, face)
    draw_box(ax, (output[0] - OUTPUT_WIDTH / 2 + 0.04, output[1]), "c_{k}", "output", "left")


def draw_wire(ax: Axes, route: Sequence[Point], stroke: Stroke, gid: str) -> None:
    """Draw a smooth line through the points; it leaves and enters each level."""
    points, codes = [route[0]], [Curve.MOVETO]
    for number, ((x0, y0), (x1, y1)) in enumerate(pairwise(route)):
        middle = (x0 + x1) / 2
        along = number % 2  # a lane
        points += [(x1, y1)] if along else [(middle, y0), (middle, y1), (x1, y1)]
        codes += [Curve.LINETO] if along else [Curve.CURVE4] * 3
    width = 1.1 if stroke is PLAIN else 1.7
    style = {"ec": stroke.colour, "ls": stroke.line, "lw": width, "zorder": 1, "gid": gid}
    ax.add_patch(PathPatch(Curve(np.asarray(points), codes), fill=False, **style))


def draw_arrow(ax: Axes, start: Point, end: Point, stroke: Stroke, **style: Any) -> None:
    """Draw the arrow that ends an edge at a node, or at the output if `stroke` is `PLAIN`."""
    width, radius = (1.1, 0) if stroke is PLAIN else (1.7, NODE_RADIUS)
    usual = {"mutation_scale": 9, "shrinkA": 0, "shrinkB": 72 * radius, "lw": width, "zorder": 2}
    style = {"arrowstyle": "-|>", "color": stroke.colour, **usual, **style}
    ax.add_patch(FancyArrowPatch(start, end, **style))


def draw_name(ax: Axes, place: Point, text: str, stroke: Stroke, gid: str) -> None:
    """Draw an operation's name in a frame of its colour; it lies above all wires."""
    box = {"boxstyle": "round,pad=0.2", "fc": "white", "ec": stroke.colour, "lw": 1.2}
    ax.text(*place, text, ha="center", va="center", fontsize=10, linespacing=1.0, bbox=box,
            zorder=4, gid=gid)  # fmt: skip


def draw_node(ax: Axes, place: Point, text: str, gid: str, face: str = "white") -> None:
    """Draw a node: a circle with its number."""
    ax.plot(*place, "o", ms=2 * 72 * NODE_RADIUS, mfc=face, mec="black", zorder=3)
    ax.text(*place, text, ha="center", va="center", fontsize=11, zorder=4, gid=gid)


def draw_box(ax: Axes, place: Point, name: str, gid: str, align: str = "center") -> None:
    """Draw an input or the output from outside: its name, in TeX's notation, in a grey box."""
    box = {"boxstyle": "round,pad=0.25", "fc": "#EEEEEE", "ec": GREY}
    ax.text(*place, f"${name}$", ha=align, va="center", fontsize=11, bbox=box, zorder=4, gid=gid)


def draw_genotype(genotype: Genotype) -> Figure:
    """Draw the normal and the reduction cell: stacked if they are deep, side by side if tall."""
    cells = [genotype.pairs(kind) for kind in KINDS]
    figure = new_figure(10.0, 4.5)
    if max(map(tall, cells)) <= 3:
        grid = figure.subplots(2, 1)
    else:
        grid = figure.subplots(1, 2, width_ratios=[max(depths(pairs)) + 0.6 for pairs in cells])
    for kind, ax in zip(KINDS, grid, strict=True):
        draw_cell(genotype.pairs(kind), genotype.concat(kind), ax, HEADINGS[kind])
    return figure


def compare_cells(genotypes: Mapping[str, Genotype], kind: str = "normal") -> Figure:
    """Draw the same kind of cell of several genotypes, each under its name.

    Two share a row; a cell more than two nodes deep has a row of its own, after the others.
    """
    deep = [name for name, cell in genotypes.items() if max(depths(cell.pairs(kind))) > 2]
    flat = [name for name in genotypes if name not in deep]
    rows = [flat[i : i + 2] for i in range(0, len(flat), 2)] + [[name, name] for name in deep]
    heights = []
    for row in rows:  # names take two lines where two nodes share half the width
        cells = [genotypes[name].pairs(kind) for name in row]
        heights.append(max(0.7 + (0.92 if max(depths(c)) == 2 else 0.58) * tall(c) for c in cells))
    mosaic: list[HashableList[str]] = [[row[0], row[1] if row[1:] else "."] for row in rows]
    figure = new_figure(10.0, sum(heights))
    for name, ax in figure.subplot_mosaic(mosaic, height_ratios=heights).items():
        draw_cell(genotypes[name].pairs(kind), genotypes[name].concat(kind), ax, name)
    return figure


def draw_supercell(nodes: int = 4, by: str = "target", ax: Axes | None = None) -> Axes:
    """Draw the cell before selection: every state is heard by every node after it.

    Edges are coloured by the node they reach (`target`) or the state they leave (`source`). The
    states stand on an ellipse, so a straight line between two of them meets no third.
    """
    ax, width, height = cell_axes(ax, WIDTH, HEIGHT)
    states, output = {}, (width - 0.3, height / 2)
    for state in range(INPUTS + nodes):  # nodes alternately above and below, from left to right
        along = -0.86 if state < INPUTS else -0.5 + 1.25 * (state - INPUTS) / max(nodes - 0.5, 1)
        up = math.copysign(math.sqrt(1 - along**2), -(state % 2) or 1)
        x = 0.1 + (width - 0.4) * (along + 1) / 2
        states[state] = (x, height / 2 + up * (height / 2 - 0.2))
    style = {"mutation_scale": 11, "shrinkA": 72 * NODE_RADIUS, "shrinkB": 72 * NODE_RADIUS + 1}
    style |= {"lw": 1.5, "zorder": 1}
    for source, target in edges(nodes):
        stroke = STROKES[{"target": target - INPUTS, "source": source}[by] % len(STROKES)]
        end, gid = states[target], f"edge {source} {target}"
        draw_arrow(ax, states[source], end, stroke, ls=stroke.line, gid=gid, **style)
    for state in range(INPUTS, INPUTS + nodes):
        draw_arrow(ax, states[state], output, PLAIN, ls=":", gid=f"output {state}", **style)
    _draw_states(ax, states, output)
    return ax


def cell_picture(genotype: Genotype, path: Path | str | None = None) -> bytes:
    """Return both cells as a picture: PNG, or what the suffix of `path` says (`.png`, `.svg`).

    The picture is also written to `path`. The same cell gives the same bytes. Raises ValueError on
    another suffix, and where no file can be written.
    """
    file = Path(path) if path else Path("cell.png")
    kind = file.suffix.lower().lstrip(".")
    if kind not in ("png", "svg"):
        raise ValueError(f"{path}: a picture's name must end in .png or .svg.")
    if path:
        check_target(file)
    target = io.BytesIO()
    metadata = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}[kind]
    with mpl.rc_context({"svg.hashsalt": "darts_lib"}):
        draw_genotype(genotype).savefig(target, format=kind, dpi=100, metadata=metadata)
    if path:
        write_whole(file, target.getvalue())
    return target.getvalue()


def search_gif(genotypes: Sequence[Genotype], path: Path, first: int = 0) -> Path:
    """Write the cells of a search, epoch by epoch, as a GIF that loops; nodes keep their places.

    `first` is the epoch of `genotypes[0]`; 0 is the start, before any step. The last frame is held
    longer. The same genotypes give the same bytes. Raises ValueError if there is none.
    """
    if not genotypes:
        raise ValueError("search_gif needs at least one genotype; did the search run an epoch?")
    frames = [_frame(genotype, epoch) for epoch, genotype in enumerate(genotypes, first)]
    times = [700] * (len(frames) - 1) + [3000]
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0)
    return path


def _frame(genotype: Genotype, epoch: int) -> Image.Image:
    figure = new_figure(9.0, 4.5)
    figure.suptitle(f"Epoch {epoch}")
    grid = figure.subplots(2, 1)
    for kind, ax in zip(KINDS, grid, strict=True):
        pairs = genotype.pairs(kind)
        columns = cell_layout.one_a_column(pairs)
        draw_cell(pairs, genotype.concat(kind), ax, HEADINGS[kind], columns=columns)
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=100)
    pixels = Image.open(target).convert("RGB")
    return pixels.quantize(palette=_palette(), dither=Image.Dither.NONE)


def _palette() -> Image.Image:
    """Return the colours of all frames: each stroke's, in eight steps from white."""
    colours = sorted({stroke.colour for stroke in plot_style.OPERATION_STROKES.values()} | {GREY})
    steps = np.linspace(0, 1, 8)[:, None]
    tints = [steps * to_rgb(colour) + (1 - steps) for colour in colours]
    image = Image.new("P", (1, 1))
    image.putpalette((255 * np.concatenate(tints)).round().astype(np.uint8).tobytes())
    return image
