"""Drawn cells: what stands on them, that nothing hides anything else, and their files."""

import io
import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from figure_tools import assert_readable, named
from PIL import Image, ImageSequence
from same_bits import digest

from darts_lib.derivation import random_genotype
from darts_lib.drawing import cell_plots as plots
from darts_lib.drawing.cell_layout import depths, layout_cell, one_a_column, tall
from darts_lib.drawing.cell_plots import cell_picture, draw_cell, search_gif
from darts_lib.genotype import PUBLISHED, Genotype
from darts_lib.search_space import KINDS, edges

CELL = PUBLISHED["DARTS_V2"]
CHAIN = Genotype.from_text(
    "Genotype(normal=[('sep_conv_3x3', 0), ('conv_7x1_1x7', 1), ('max_pool_3x3', 2),"
    "('skip_connect', 0), ('dil_conv_5x5', 3), ('sep_conv_7x7', 1), ('avg_pool_3x3', 4),"
    "('sep_conv_5x5', 2)], normal_concat=[2, 3, 4, 5], reduce=[('skip_connect', 0),"
    "('skip_connect', 0), ('skip_connect', 0), ('skip_connect', 0)], reduce_concat=[3])"
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_cell_shows_its_genotype(name: str, kind: str) -> None:
    pairs, concat = PUBLISHED[name].pairs(kind), PUBLISHED[name].concat(kind)
    ax = draw_cell(pairs, concat, title=name)
    shown = [text.get_text().replace("\n", "_") for text in named(ax.texts, "operation")]
    assert shown == [operation for operation, _ in pairs]
    numbers = [t.get_text() for t in named(ax.texts, "node")]
    assert numbers == [str(state) for state in range(2, 2 + len(pairs) // 2)]
    assert len(named(ax.patches, "edge")) == len(pairs)
    assert len(named(ax.patches, "output")) == len(concat)
    assert_readable(ax.get_figure(root=True))
    places = [tuple(line.get_xydata()[0]) for line in ax.lines]
    wires = {wire.get_gid(): wire.get_path().vertices for wire in named(ax.patches, "wire")}
    for i, (_, source) in enumerate(pairs):
        assert tuple(wires[f"wire {i}"][0]) == pytest.approx(places[source]), "from its source"


PAIRS = {**PUBLISHED, "chain": CHAIN, **{f"random {i}": random_genotype(i) for i in range(4)}}


@pytest.mark.parametrize("genotype", PAIRS.values(), ids=PAIRS)
def test_a_pair_of_cells_is_readable(genotype: Genotype) -> None:
    figure = plots.draw_genotype(genotype)
    assert [ax.get_title() for ax in figure.axes] == ["Normal cell", "Reduction cell"]
    assert_readable(figure)
    assert plt.get_fignums() == []


def test_columns_follow_what_a_node_hears_unless_they_are_given() -> None:
    assert depths(CELL.normal) == (0, 0, 1, 1, 1, 2)
    assert depths(PUBLISHED["AmoebaNet"].normal) == (0, 0, 1, 2, 3, 1, 1)
    assert [tall(PUBLISHED[name].normal) for name in ("DARTS_V2", "NASNet")] == [3, 5]
    places = []
    for seed in range(6):  # an animation keeps its nodes in place
        pairs = random_genotype(seed).normal
        layout = layout_cell(pairs, (2, 5), (9.0, 2.0), (0.74, 0.38), one_a_column(pairs))
        places.append(layout.states)
    assert places == [places[0]] * 6


def test_a_deep_cell_is_readable_and_given_axes_are_used() -> None:
    _, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    assert draw_cell(CHAIN.normal, CHAIN.normal_concat, ax) is ax
    assert_readable(ax.get_figure(root=True))
    assert len(plt.get_fignums()) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_cells_in_one_figure(kind: str) -> None:
    figure = plots.compare_cells(PUBLISHED, kind)
    assert {ax.get_title() for ax in figure.axes} == set(PUBLISHED)
    assert_readable(figure)
    assert len(plots.compare_cells({"only": CELL}, kind).axes) == 1
    assert plt.get_fignums() == []


@pytest.mark.parametrize("nodes", [1, 2, 4, 5])
def test_the_supercell_has_every_edge_once(nodes: int) -> None:
    ax = plots.draw_supercell(nodes)
    drawn = [arrow.get_gid() for arrow in named(ax.patches, "edge")]
    assert drawn == [f"edge {source} {target}" for source, target in edges(nodes)]
    assert len(named(ax.patches, "output")) == nodes
    assert_readable(ax.get_figure(root=True))


@pytest.mark.parametrize(("by", "column", "colours"), [("target", 2, 4), ("source", 1, 5)])
def test_each_end_has_a_colour_in_the_supercell(by: str, column: int, colours: int) -> None:
    arrows = named(plots.draw_supercell(4, by).patches, "edge")
    drawn = {(arrow.get_gid().split()[column], arrow.get_edgecolor()) for arrow in arrows}
    ends, shades = zip(*drawn, strict=True)
    assert len(drawn) == len(set(ends)) == len(set(shades)) == colours


def test_a_cell_in_words() -> None:
    assert plots.describe_cell(CELL.normal).split(". ")[::3] == [
        "Node 2 adds sep_conv_3x3 of state 0 and sep_conv_3x3 of state 1",
        "Node 5 adds skip_connect of state 0 and dil_conv_3x3 of state 2.",
    ]


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
    with Image.open(path) as gif:
        assert gif.info["loop"] == 0
        first, second, last = (frame.info["duration"] for frame in ImageSequence.Iterator(gif))
    assert last > first == second
    assert path.stat().st_size < 300_000
    assert digest(search_gif(genotypes, tmp_path / "b.gif")) == digest(path)
    assert digest(search_gif(genotypes, tmp_path / "c.gif", first=1)) != digest(path)
    assert plt.get_fignums() == []
