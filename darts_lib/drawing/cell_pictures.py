"""Cells as files: graphviz where its `dot` program is there, and the GIF of a search.

Without `dot` the same calls give our own drawing, so a notebook runs on any machine. `dot` is part
of Graphviz itself: the package `graphviz` of conda, apt or brew. pip does not bring it.
"""

import io
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import graphviz
import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_rgb
from PIL import Image

from darts_lib.drawing.cell_layout import one_a_column
from darts_lib.drawing.cell_plots import FIRST_NODE, HEADINGS, INPUT_NAMES, draw_cell, draw_genotype
from darts_lib.drawing.plot_style import GREY, OPERATION_STROKES, new_figure, stroke_of
from darts_lib.engine.files import check_target, write_whole
from darts_lib.genotype import Genotype
from darts_lib.search_space import INPUTS, KINDS


def cell_digraph(genotype: Genotype, kind: str) -> graphviz.Digraph:
    """Return one cell as a graphviz graph; its `.source` needs no `dot` program."""
    graph = graphviz.Digraph(
        f"cluster_{kind}", graph_attr={"rankdir": "LR", "label": HEADINGS[kind]}
    )
    graph.attr("node", shape="circle", fontname="DejaVu Sans")
    graph.attr("edge", fontname="DejaVu Sans")
    pairs, concat = genotype.pairs(kind), genotype.concat(kind)
    for state, name in enumerate(INPUT_NAMES):
        graph.node(f"{kind}{state}", name, shape="box")
    for state in range(INPUTS, INPUTS + len(pairs) // 2):
        graph.node(f"{kind}{state}", str(state - INPUTS + FIRST_NODE))
    graph.node(f"{kind}_output", "c_{k}", shape="box")
    for i, (name, source) in enumerate(pairs):
        colour = stroke_of(name).colour
        graph.edge(f"{kind}{source}", f"{kind}{i // 2 + INPUTS}", label=name, color=colour)
    for state in concat:
        graph.edge(f"{kind}{state}", f"{kind}_output", color=GREY)
    return graph


def cell_picture(genotype: Genotype, path: Path | str | None = None) -> bytes:
    """Return both cells as a picture, drawn by graphviz's `dot` where it is there, else by us.

    The format is PNG, or what the suffix of `path` says (`.png` or `.svg`); the picture is also
    written to `path`. Raises ValueError on another suffix, and where no file can be written.
    """
    file = Path(path) if path else Path("cell.png")
    kind = file.suffix.lower().lstrip(".")
    if kind not in ("png", "svg"):
        raise ValueError(f"{path}: a picture's name must end in .png or .svg.")
    if path:
        check_target(file)
    picture = _by_dot(genotype, kind) or _by_matplotlib(genotype, kind)
    if path:
        write_whole(file, picture)
    return picture


def _by_dot(genotype: Genotype, kind: str) -> bytes:
    """Return graphviz's picture; nothing if `dot` is missing or fails."""
    if shutil.which("dot") is None:
        return b""
    both = graphviz.Digraph(graph_attr={"rankdir": "LR"})
    for part in KINDS:
        both.subgraph(cell_digraph(genotype, part))
    try:
        picture: bytes = both.pipe(format=kind, quiet=True)
    except (graphviz.ExecutableNotFound, subprocess.CalledProcessError, OSError):
        return b""
    return picture


def _by_matplotlib(genotype: Genotype, kind: str) -> bytes:
    target = io.BytesIO()
    # No date and no version in the file: the same cell gives the same bytes.
    metadata = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}[kind]
    with mpl.rc_context({"svg.hashsalt": "darts_lib"}):
        draw_genotype(genotype).savefig(target, format=kind, dpi=100, metadata=metadata)
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
    frames[0].save(
        path, format="GIF", save_all=True, append_images=frames[1:], duration=times, loop=0
    )
    return path


def _frame(genotype: Genotype, epoch: int) -> Image.Image:
    figure = new_figure(9.0, 4.5)
    figure.suptitle(f"Epoch {epoch}")
    grid = figure.subplots(2, 1)
    for kind, ax in zip(KINDS, grid, strict=True):
        pairs = genotype.pairs(kind)
        columns = one_a_column(pairs)
        draw_cell(pairs, genotype.concat(kind), ax, HEADINGS[kind], columns=columns)
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=100)
    pixels = Image.open(target).convert("RGB")
    return pixels.quantize(palette=_palette(), dither=Image.Dither.NONE)


def _palette() -> Image.Image:
    """Return the colours of all frames: each stroke's, in eight steps from white."""
    colours = sorted({stroke.colour for stroke in OPERATION_STROKES.values()} | {GREY})
    steps = np.linspace(0, 1, 8)[:, None]
    tints = [steps * to_rgb(colour) + (1 - steps) for colour in colours]
    image = Image.new("P", (1, 1))
    image.putpalette((255 * np.concatenate(tints)).round().astype(np.uint8).tobytes())
    return image
