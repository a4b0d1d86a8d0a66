"""Pictures of recurrent cells: what is drawn, and that nothing is clipped or overlaps."""

from collections.abc import Iterator
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, PathPatch
from matplotlib.transforms import Bbox

from darts_lib.drawing import recurrent_plots as plots
from darts_lib.drawing.plot_style import use_style
from darts_lib.drawing.recurrent_plots import draw_recurrent_cell
from darts_lib.recurrent.genotype import PUBLISHED, RecurrentGenotype, random_genotype
from darts_lib.recurrent.search_space import PRIMITIVES


def _chain(nodes: int) -> RecurrentGenotype:
    pairs = tuple(("sigmoid" if i % 2 else "identity", i) for i in range(nodes))
    return RecurrentGenotype(pairs, (nodes,))


CELLS = {
    **PUBLISHED,
    "chain": _chain(8),
    "one": _chain(1),
    "star": RecurrentGenotype((("sigmoid", 0),) * 8, tuple(range(1, 9))),
    **{f"random {seed}": random_genotype(seed) for seed in range(3)},
}


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with plt.rc_context():
        use_style()
        yield


def boxes(ax: Axes, *kinds: str) -> list[Bbox]:
    """Return where the texts of these kinds and the circles lie, in pixels."""
    found = [text for text in ax.texts if text.get_gid() in kinds]
    framed = [(text.get_bbox_patch() or text).get_window_extent() for text in found]
    radius = [line.get_markersize() / 2 * ax.figure.dpi / 72 for line in ax.lines]
    centres = [ax.transData.transform(np.asarray(line.get_xydata()))[0] for line in ax.lines]
    return framed + [Bbox([c - r, c + r]) for c, r in zip(centres, radius, strict=True)]


@pytest.mark.parametrize("name", CELLS)
def test_everything_is_drawn_and_nothing_overlaps_or_is_clipped(name: str) -> None:
    genotype = CELLS[name]
    ax = draw_recurrent_cell(genotype, title="a title")
    ax.figure.canvas.draw()
    activations, states = (
        [text for text in ax.texts if text.get_gid() == kind] for kind in ("activation", "state")
    )
    assert [text.get_text() for text in activations] == [name for name, _ in genotype.recurrent]
    assert [text.get_text() for text in states] == [str(i) for i in range(genotype.nodes + 1)]
    assert len([patch for patch in ax.patches if isinstance(patch, PathPatch)]) == genotype.nodes
    arrows = [patch for patch in ax.patches if isinstance(patch, FancyArrowPatch)]
    assert len(arrows) == genotype.nodes + 2  # one more for each input
    shapes, whole = boxes(ax, "activation", "input", "output"), ax.figure.bbox
    assert not any(one.overlaps(other) for one, other in combinations(shapes, 2))
    for box in shapes:
        assert whole.x0 <= box.x0 < box.x1 <= whole.x1
        assert whole.y0 <= box.y0 < box.y1 <= whole.y1
    wires = [patch for patch in ax.patches if patch.get_gid() == "wire"]
    for number, wire in enumerate(wires):
        path = ax.transData.transform_path(wire.get_path())
        for other, text in enumerate(activations):
            extent = text.get_bbox_patch().get_window_extent()  # type: ignore[union-attr]
            assert other == number or not path.intersects_bbox(extent, filled=False)


def test_a_place_in_the_tree_belongs_to_one_state() -> None:
    for genotype in CELLS.values():
        deep = plots.depths(genotype)
        assert len(set(zip(deep, plots.rows(genotype), strict=True))) == genotype.nodes + 1
        for node, (_, source) in enumerate(genotype.recurrent, 1):
            assert deep[node] == deep[source] + 1


def test_output_states_are_shaded_and_activations_differ_in_more_than_colour() -> None:
    ax = draw_recurrent_cell(PUBLISHED["ENAS"])
    shaded = [i for i, line in enumerate(ax.lines) if line.get_markerfacecolor() != "white"]
    assert tuple(shaded) == PUBLISHED["ENAS"].concat
    assert tuple(plots.ACTIVATION_STROKES) == PRIMITIVES
    strokes = plots.ACTIVATION_STROKES.values()
    assert len({stroke.colour for stroke in strokes}) == len(PRIMITIVES)
    assert len({stroke.marker for stroke in strokes}) == len(PRIMITIVES)


def test_given_axes_are_used_and_small_ones_are_refused() -> None:
    figure, axes = plt.subplots(1, 2, figsize=(21, 5))
    assert draw_recurrent_cell(PUBLISHED["DARTS_V1"], axes[0], "V1") is axes[0]
    assert axes[0].get_title() == "V1"
    plt.close(figure)
    ax = plt.subplots(figsize=(4, 3))[1]
    width, _ = plots.least_size(PUBLISHED["DARTS_V1"])
    with pytest.raises(ValueError, match=f"needs {width:.1f}"):
        draw_recurrent_cell(PUBLISHED["DARTS_V1"], ax)


def test_a_cell_in_words() -> None:
    cell = RecurrentGenotype((("tanh", 0), ("relu", 1), ("identity", 1)), (1, 3))
    assert plots.describe_recurrent_cell(cell) == (
        "State 1 takes tanh of state 0. State 2 takes relu of state 1. State 3 takes identity of "
        "state 1. The output is the mean of states 1, 3."
    )
    assert plots.describe_recurrent_cell(_chain(1)).endswith("The output is the mean of state 1.")
    assert plots.describe_recurrent_cell(PUBLISHED["DARTS_V2"]).endswith("mean of states 1 to 8.")
