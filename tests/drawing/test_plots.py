"""Curves, heat maps and bars show the numbers they were given, with names and units."""

import io
import math
from collections.abc import Callable, Iterator

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes

from darts_lib.drawing import plots
from darts_lib.drawing.plot_style import OPERATION_STROKES, STROKES, stroke_of
from darts_lib.search_space import EXTRA_PRIMITIVES, PRIMITIVES

HISTORY = [
    {
        "epoch": epoch,
        "train_loss": 2.0 / epoch,
        "valid_loss": 2.5 / epoch,
        "train_accuracy": 0.3 * epoch,
        "valid_accuracy": 0.25 * epoch,
        "entropy_normal": 2.0 - 0.1 * epoch,
        "entropy_reduce": 2.0 - 0.2 * epoch,
        "skips": epoch,
        "learning_rate": 0.1**epoch,
        "genotype": {"normal": []},
    }
    for epoch in (1, 2, 3)
]
ALPHAS = torch.randn(14, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def closed_figures() -> Iterator[None]:
    yield
    plt.close("all")


def assert_inside(ax: Axes) -> None:
    """Every label lies inside the figure and is at least 10 points high."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    legend = ax.get_legend()
    labels = [ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts]
    labels += legend.get_texts() if legend else []
    labels += ax.get_yticklabels() + ax.get_xticklabels() if ax.images else []
    for text in (label for label in labels if label.get_text()):
        box = text.get_window_extent()
        assert text.get_fontsize() >= 10
        assert min(box.x0, box.y0) >= 0, text
        assert (box.x1 <= figure.bbox.x1, box.y1 <= figure.bbox.y1) == (True, True), text


CURVES: list[tuple[Callable[..., Axes], str, list[str]]] = [
    (plots.loss_curves, "loss (nats)", ["train_loss", "valid_loss"]),
    (plots.accuracy_curves, "accuracy (%)", ["train_accuracy", "valid_accuracy"]),
    (plots.entropy_curve, "entropy (nats)", ["entropy_normal", "entropy_reduce"]),
    (plots.skip_counts, "skip connections", ["skips"]),
    (plots.learning_rates, "learning rate", ["learning_rate"]),
]


@pytest.mark.parametrize(("draw", "ylabel", "keys"), CURVES)
def test_curves_show_the_history(draw: Callable[..., Axes], ylabel: str, keys: list[str]) -> None:
    ax = draw(HISTORY)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", ylabel)
    for key, line in zip(keys, ax.lines, strict=False):
        assert line.get_label() == key.replace("_", " ")
        assert list(line.get_xdata()) == [1, 2, 3]
        assert list(line.get_ydata()) == [row[key] for row in HISTORY]
    assert_inside(ax)


def test_as_many_curves_are_drawn_as_are_asked_for() -> None:
    keys = [f"figure_{number}" for number in range(11)]
    ax = plots.curves([dict.fromkeys(keys, 1.0)], keys, "value")
    assert len(ax.lines) == len(keys)


def test_lines_differ_by_more_than_colour() -> None:
    lines = plots.loss_curves(HISTORY).lines
    assert len({line.get_linestyle() for line in lines}) == 2
    assert len({line.get_marker() for line in lines}) == 2
    assert len({(stroke.line, stroke.marker) for stroke in STROKES}) == len(STROKES)


def test_every_operation_has_its_own_stroke() -> None:
    assert set(OPERATION_STROKES) == {*PRIMITIVES, *EXTRA_PRIMITIVES}
    assert len(set(OPERATION_STROKES.values())) == len(OPERATION_STROKES)
    assert stroke_of("my_own_operation").colour


def test_accuracies_are_drawn_in_percent() -> None:
    ax = plots.accuracy_curves(HISTORY)
    assert ax.yaxis.get_major_formatter()(0.5) == "50"


def test_entropy_has_the_uniform_line() -> None:
    line = plots.entropy_curve(HISTORY).lines[-1]
    assert list(line.get_ydata()) == pytest.approx([math.log(8)] * 2)
    assert plots.entropy_curve(HISTORY, primitives=3).lines[-1].get_label() == "uniform: ln 3"


def test_an_epoch_without_a_value_is_left_out() -> None:
    rows = [{"epoch": 1, "a": 1.0}, {"epoch": 2}, {"epoch": 3, "a": None}, {"epoch": 4, "a": 2}]
    (line,) = plots.curves(rows, ["a"], "a").lines
    assert line.get_xydata().tolist() == [[1, 1], [4, 2]]


def test_wrong_keys_are_named() -> None:
    with pytest.raises(ValueError, match="no epoch of the history has 'loss'; it has .*train_loss"):
        plots.curves(HISTORY, ["loss"], "loss")
    with pytest.raises(ValueError, match="genotype must be a number"):
        plots.curves(HISTORY, ["genotype"], "genotype")


@pytest.mark.parametrize("alphas", [ALPHAS, ALPHAS.numpy(), ALPHAS.clone().requires_grad_()])
def test_heat_map_shows_the_softmax(alphas: torch.Tensor) -> None:
    ax = plots.alpha_heat_map(alphas, title="Normal cell")
    expected = np.exp(ALPHAS.numpy()) / np.exp(ALPHAS.numpy()).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(ax.images[0].get_array(), expected, rtol=1e-5)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == list(PRIMITIVES)
    rows = [tick.get_text() for tick in ax.get_yticklabels()]
    assert rows[:5] + rows[-1:] == ["0→2", "1→2", "0→3", "1→3", "2→3", "4→5"]
    assert ax.images[0].colorbar.ax.get_ylabel() == "softmax weight"
    assert_inside(ax)


def test_raw_heat_map_has_zero_in_the_middle() -> None:
    image = plots.alpha_heat_map(ALPHAS, values="raw").images[0]
    np.testing.assert_allclose(image.get_array(), ALPHAS.numpy(), rtol=1e-6)
    low, high = image.get_clim()
    assert low == -high == -float(ALPHAS.abs().max())
    assert image.get_cmap().name == "PuOr"
    assert plots.alpha_heat_map(torch.zeros(2, 8), values="raw").images[0].get_clim() == (-1, 1)


def test_heat_map_refuses_what_it_cannot_draw() -> None:
    with pytest.raises(ValueError, match="'softmax' or 'raw', not 'probability'"):
        plots.alpha_heat_map(ALPHAS, values="probability")
    with pytest.raises(ValueError, match=r"8 primitives, not shape \(14, 7\)"):
        plots.alpha_heat_map(ALPHAS[:, :7])
    with pytest.raises(ValueError, match="no cell has 13 edges"):
        plots.alpha_heat_map(ALPHAS[:13])


def test_alpha_history_of_an_edge_and_of_the_mean() -> None:
    history = torch.stack([torch.zeros(14, 8), ALPHAS, 2 * ALPHAS])
    probabilities = torch.softmax(history.double(), dim=-1)
    ax = plots.alpha_history(history, edge=3)
    assert ax.get_title() == "edge 1→3"
    assert [line.get_label() for line in ax.lines] == list(PRIMITIVES)
    np.testing.assert_allclose(ax.lines[5].get_ydata(), probabilities[:, 3, 5])
    assert_inside(ax)
    mean = plots.alpha_history(history.numpy())
    np.testing.assert_allclose(mean.lines[2].get_ydata(), probabilities.mean(dim=1)[:, 2])


def test_bars_show_values_and_errors() -> None:
    ax = plots.bars({"a": 1.0, "b": 3.0}, {"b": 0.5}, "seconds")
    assert [patch.get_width() for patch in ax.patches] == [1.0, 3.0]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "b"]
    assert ax.get_xlabel() == "seconds"
    assert [text.get_text() for text in ax.texts] == ["1", "3"]
    assert_inside(ax)


def test_bars_write_large_numbers_in_full() -> None:
    ax = plots.bars({"a": 3_424_440.0, "b": 1234.4, "c": 0.123456})
    assert [text.get_text() for text in ax.texts] == ["3,424,440", "1,234", "0.1235"]


def test_bars_beside_each_other_keep_the_first_on_top() -> None:
    _, axes = plt.subplots(1, 2, sharey=True)
    for ax in axes:
        plots.bars({"a": 1.0, "b": 2.0}, ax=ax)
    assert axes[0].yaxis_inverted()
    assert axes[1].yaxis_inverted()


def test_a_given_axes_is_used_and_no_figure_opened() -> None:
    _, ax = plt.subplots()
    assert plots.loss_curves(HISTORY, ax=ax) is ax
    assert len(plt.get_fignums()) == 1


def test_the_style_is_set_by_the_call_and_gives_the_same_bytes() -> None:
    with mpl.rc_context():
        mpl.rcdefaults()
        plots.use_style()
        assert mpl.rcParams["image.cmap"] == "cividis"
        assert mpl.rcParams["font.size"] >= 10
        pictures = [io.BytesIO(), io.BytesIO()]
        for picture in pictures:
            figure = plots.alpha_heat_map(ALPHAS).get_figure(root=True)
            figure.savefig(picture, format="png", metadata={"Software": None})
        assert pictures[0].getvalue() == pictures[1].getvalue()
