"""An edge with all its operations, and its gradient."""

import torch
from figure_tools import assert_inside

from darts_lib.drawing import draw_alpha_gradients, draw_mixed_edge, draw_step_errors
from darts_lib.search_space import KINDS, PRIMITIVES


def test_a_strand_is_as_thick_as_its_weight_and_the_sum_leaves_right() -> None:
    outputs = torch.rand(8, 6, 6, generator=torch.Generator().manual_seed(0))
    rows = {"even": torch.full((8,), 0.125), "decided": torch.eye(8)[4]}
    figure = draw_mixed_edge(outputs[3], outputs, rows)
    figure.draw_without_rendering()
    for number, weights in enumerate(rows.values()):
        middle, right = figure.axes[3 * number + 1 : 3 * number + 3]
        widths = [line.get_linewidth() for line in middle.lines]
        assert widths == [0.3 + 10 * weight for weight in weights.tolist()]
        expected = (weights.view(-1, 1, 1) * outputs).sum(dim=0)
        assert torch.allclose(torch.tensor(right.images[0].get_array()), expected)
        assert [text.get_text().split()[0] for text in middle.texts] == list(PRIMITIVES)
        assert_inside(figure, [text.get_window_extent() for text in (*middle.texts, right.title)])


def test_gradients_and_errors_are_drawn_as_given() -> None:
    tables = {kind: torch.randn(14, 8) for kind in KINDS}
    assert len(draw_alpha_gradients(tables).axes) == 4  # with their scales
    ax = draw_step_errors([0.1, 0.01], {"a": [1, 2], "b": [3, 4]})
    assert [list(line.get_ydata()) for line in ax.lines] == [[1, 2], [3, 4]]
