"""Pictures of recurrent cells: what is drawn, and that nothing is clipped or overlaps."""

import matplotlib.pyplot as plt
import pytest
from figure_tools import assert_readable, named
from matplotlib.patches import FancyArrowPatch

from darts_lib.drawing import recurrent_plots as plots
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


@pytest.mark.parametrize("genotype", CELLS.values(), ids=CELLS)
def test_everything_is_drawn_and_nothing_overlaps_or_is_clipped(
    genotype: RecurrentGenotype,
) -> None:
    ax = draw_recurrent_cell(genotype, title="a title")
    assert_readable(ax.get_figure(root=True))
    names, states = named(ax.texts, "activation"), named(ax.texts, "state")
    assert [text.get_text() for text in names] == [name for name, _ in genotype.recurrent]
    assert [text.get_text() for text in states] == [*map(str, range(genotype.nodes + 1))]
    arrows = [patch for patch in ax.patches if isinstance(patch, FancyArrowPatch)]
    assert len(arrows) == genotype.nodes + 2, "one more for each input"
    for wire, own in zip(named(ax.patches, "wire"), names, strict=True):
        path = ax.transData.transform_path(wire.get_path())
        others = [text.get_bbox_patch().get_window_extent() for text in names if text is not own]
        assert not any(path.intersects_bbox(box, filled=False) for box in others)


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
    strokes = [(stroke.colour, stroke.marker) for stroke in plots.ACTIVATION_STROKES.values()]
    assert [len({*looks}) for looks in zip(*strokes, strict=True)] == [len(PRIMITIVES)] * 2


def test_given_axes_are_used_and_small_ones_are_refused() -> None:
    _, axes = plt.subplots(1, 2, figsize=(21, 5), layout="constrained")
    assert draw_recurrent_cell(PUBLISHED["DARTS_V1"], axes[0], "V1") is axes[0]
    assert axes[0].get_title() == "V1"
    _, ax = plt.subplots(figsize=(4, 3))
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
