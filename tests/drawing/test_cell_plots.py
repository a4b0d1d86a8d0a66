"""Drawn cells: what stands on them, that nothing hides anything else, and their files."""

import io
import re
from itertools import combinations
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image
from same_bits import digest

from darts_lib.derivation import random_genotype
from darts_lib.drawing import cell_plots as plots
from darts_lib.drawing.cell_plots import cell_picture, draw_cell, search_gif
from darts_lib.genotype import PUBLISHED, Genotype
from darts_lib.search_space import KINDS, edges

CELLS = [(name, kind) for name in PUBLISHED for kind in KINDS]
CHAIN = Genotype.from_text(
    "Genotype(normal=[('sep_conv_3x3', 0), ('conv_7x1_1x7', 1), ('max_pool_3x3', 2),"
    "('skip_connect', 0), ('dil_conv_5x5', 3), ('sep_conv_7x7', 1), ('avg_pool_3x3', 4),"
    "('sep_conv_5x5', 2)], normal_concat=[2, 3, 4, 5], reduce=[('skip_connect', 0),"
    "('skip_connect', 0), ('skip_connect', 0), ('skip_connect', 0)], reduce_concat=[3])"
)


def texts(ax: Axes, kind: str) -> list[Text]:
    return [text for text in ax.texts if text.get_gid() == kind]


def arrows(ax: Axes, kind: str) -> list[FancyArrowPatch]:
    found = [patch for patch in ax.patches if isinstance(patch, FancyArrowPatch)]
    return [arrow for arrow in found if str(arrow.get_gid()).startswith(kind)]


def boxes(ax: Axes) -> list[Bbox]:
    """Return where the names, the nodes and the ends of a drawn cell lie, in pixels."""
    framed = [
        t.get_bbox_patch() or t for k in ("operation", "input", "output") for t in texts(ax, k)
    ]
    circles = [line for line in ax.lines if line.get_marker() == "o"]
    radius = [line.get_markersize() / 2 * ax.figure.dpi / 72 for line in circles]
    centres = [ax.transData.transform(line.get_xydata()[0]) for line in circles]
    around = [Bbox([c - r, c + r]) for c, r in zip(centres, radius, strict=True)]
    return [item.get_window_extent() for item in framed] + around


def assert_readable(figure: Figure) -> None:
    """Every box inside the figure, and no two of a cell over each other."""
    figure.draw_without_rendering()
    for ax in figure.axes:
        drawn = boxes(ax)
        for box in [*drawn, *([ax.title.get_window_extent()] if ax.get_title() else [])]:
            assert 0 <= box.x0 < box.x1 <= figure.bbox.x1, box
            assert 0 <= box.y0 < box.y1 <= figure.bbox.y1, box
        for a, b in combinations(drawn, 2):
            # A shared hairline is not an overlap: half a pixel is let pass.
            wide = min(a.x1, b.x1) - max(a.x0, b.x0)
            assert min(wide, min(a.y1, b.y1) - max(a.y0, b.y0)) < 0.5, (a, b)


@pytest.mark.parametrize(("name", "kind"), CELLS)
def test_a_cell_shows_its_genotype(name: str, kind: str) -> None:
    genotype = PUBLISHED[name]
    pairs, concat = genotype.pairs(kind), genotype.concat(kind)
    ax = draw_cell(pairs, concat, title=name)
    shown = [text.get_text().replace("\n", "_") for text in texts(ax, "operation")]
    assert shown == [operation for operation, _ in pairs]
    assert [t.get_text() for t in texts(ax, "node")] == [str(i) for i in range(len(pairs) // 2)]
    assert len(arrows(ax, "edge")) == len(pairs)
    assert len(arrows(ax, "output")) == len(concat)
    assert_readable(ax.get_figure(root=True))


PAIRS = {**PUBLISHED, "chain": CHAIN, **{f"random {i}": random_genotype(i) for i in range(4)}}


@pytest.mark.parametrize("genotype", PAIRS.values(), ids=PAIRS)
def test_a_pair_of_cells_is_readable_and_a_deep_one_alone(genotype: Genotype) -> None:
    figure = plots.draw_genotype(genotype)
    assert [ax.get_title() for ax in figure.axes] == ["Normal cell", "Reduction cell"]
    assert_readable(figure)
    if genotype is CHAIN:
        assert_readable(draw_cell(CHAIN.normal, CHAIN.normal_concat).get_figure(root=True))


@pytest.mark.parametrize("kind", KINDS)
def test_cells_in_one_figure(kind: str) -> None:
    figure = plots.compare_cells(PUBLISHED, kind)
    assert {ax.get_title() for ax in figure.axes} == set(PUBLISHED)
    assert_readable(figure)
    assert len(plots.compare_cells({"only": PUBLISHED["DARTS_V2"]}, kind).axes) == 1


def test_wires_start_where_the_pair_says() -> None:
    """The first point of an edge's wire is the middle of its source."""
    pairs = PUBLISHED["AmoebaNet"].reduce
    ax = draw_cell(pairs, PUBLISHED["AmoebaNet"].reduce_concat)
    places = [t.get_position() for t in texts(ax, "input")]
    places += [tuple(line.get_xydata()[0]) for line in ax.lines]
    wires = {w.get_gid(): w for w in ax.patches if str(w.get_gid()).startswith("wire")}
    for i, (_, source) in enumerate(pairs):
        start = wires[f"wire {i}"].get_path().vertices[0]
        assert tuple(start) == pytest.approx(places[source])


@pytest.mark.parametrize("nodes", [1, 2, 4, 5])
def test_the_supercell_has_every_edge_once(nodes: int) -> None:
    ax = plots.draw_supercell(nodes)
    drawn = [arrow.get_gid() for arrow in arrows(ax, "edge")]
    assert drawn == [f"edge {source} {target}" for source, target in edges(nodes)]
    assert len(arrows(ax, "output")) == nodes
    assert_readable(ax.get_figure(root=True))


@pytest.mark.parametrize(("by", "column", "colours"), [("target", 2, 4), ("source", 1, 5)])
def test_each_end_has_a_colour_in_the_supercell(by: str, column: int, colours: int) -> None:
    edges = arrows(plots.draw_supercell(4, by), "edge")
    drawn = {(str(arrow.get_gid()).split()[column], arrow.get_edgecolor()) for arrow in edges}
    ends, shades = zip(*drawn, strict=True)
    assert len(drawn) == len(set(ends)) == len(set(shades)) == colours


def test_a_cell_in_words() -> None:
    assert plots.describe_cell(PUBLISHED["DARTS_V2"].normal).split(". ")[::3] == [
        "Node 0 adds sep_conv_3x3 of input 0 and sep_conv_3x3 of input 1",
        "Node 3 adds skip_connect of input 0 and dil_conv_3x3 of node 0.",
    ]


def test_figures_are_not_left_open() -> None:
    plots.draw_genotype(PUBLISHED["DARTS_V2"])
    plots.compare_cells({"a": PUBLISHED["DARTS_V2"]})
    assert plt.get_fignums() == []
    _, ax = plt.subplots()
    assert draw_cell(CHAIN.reduce, CHAIN.reduce_concat, ax) is ax
    assert len(plt.get_fignums()) == 1


CELL = PUBLISHED["DARTS_V2"]


def test_a_picture_is_the_same_each_time_and_as_its_suffix_says(tmp_path: Path) -> None:
    first = cell_picture(CELL)
    assert Image.open(io.BytesIO(first)).size == (1000, 450)
    assert digest(cell_picture(CELL, tmp_path / "cell.png")) == digest(first)
    assert digest(tmp_path / "cell.png") == digest(first)
    drawn = cell_picture(CELL, str(tmp_path / "cell.svg"))
    assert drawn == (tmp_path / "cell.svg").read_bytes()
    assert len(re.findall(rb'id="edge \d+"', drawn)) == 2 * 8, "both cells, eight edges each"
    assert plt.get_fignums() == []


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no folder .*no; make it"):
        cell_picture(CELL, tmp_path / "no" / "cell.svg")
    with pytest.raises(ValueError, match=r"\.png or \.svg"):
        cell_picture(CELL, Path("cell.jpeg"))
    with pytest.raises(ValueError, match="at least one genotype"):
        search_gif([], tmp_path / "none.gif")


def test_gif_of_a_search(tmp_path: Path) -> None:
    genotypes = [random_genotype(0), random_genotype(0), random_genotype(1)]
    path = search_gif(genotypes, tmp_path / "a.gif")
    times = []
    with Image.open(path) as gif:
        assert (gif.n_frames, gif.info["loop"]) == (3, 0)
        for frame in range(gif.n_frames):
            gif.seek(frame)
            times.append(gif.info["duration"])
    assert times[-1] > times[0] == times[1]
    assert path.stat().st_size < 300_000
    assert digest(search_gif(genotypes, tmp_path / "b.gif")) == digest(path)
    assert digest(search_gif(genotypes, tmp_path / "c.gif", first=1)) != digest(path)
    assert plt.get_fignums() == []
