"""How a cell was chosen: what is drawn is what was given, and nothing is clipped."""

import torch
from figure_tools import assert_inside
from matplotlib.figure import Figure

from darts_lib.derivation import derive, margins
from darts_lib.drawing import draw_choices, draw_comparison, draw_gap, draw_margins, draw_rises
from darts_lib.search_space import KINDS

ALPHAS = {kind: torch.randn(14, 8, generator=torch.Generator().manual_seed(1)) for kind in KINDS}


def assert_whole(figure: Figure) -> None:
    figure.draw_without_rendering()
    axes = figure.axes[:2]  # the others are scales of colours
    texts = [text for ax in axes for text in (*ax.get_yticklabels(), *ax.texts, ax.title)]
    shown = [text.get_window_extent() for text in texts if text.get_text() and text.get_visible()]
    assert_inside(figure, shown)


def test_rings_are_around_the_chosen_operations() -> None:
    genotype = derive(ALPHAS)
    figure = draw_choices(ALPHAS, genotype)
    assert_whole(figure)
    assert [len(ax.collections[0].get_offsets()) for ax in figure.axes[:2]] == [8, 8]


def test_margins_and_gap_have_a_bar_each() -> None:
    figure = draw_margins(margins(ALPHAS), 4)
    assert_whole(figure)
    assert [len(ax.patches) for ax in figure.axes] == [4, 4]
    figure = draw_gap({"as found": (0.3, 0.9), "one-hot": (2.4, 0.3)}, 700, 10)
    assert_whole(figure)
    assert [bar.get_width() for bar in figure.axes[1].patches] == [90.0, 30.0]


def test_rises_are_drawn_in_per_cent() -> None:
    ax = draw_rises({"none": [0.9, 0.8], "skip_connect": [0.9, 0.1]}, [0, 1])
    assert [list(line.get_ydata()) for line in ax.lines] == [[90.0, 80.0], [90.0, 10.0]]


def test_a_comparison_counts_wrong_images_and_joins_a_seed() -> None:
    figure = draw_comparison({"searched": [350, 355], "random": [348, 347]}, 360)
    assert_whole(figure)
    assert [list(line.get_xdata()) for line in figure.axes[0].lines] == [[10, 12], [5, 13]]
