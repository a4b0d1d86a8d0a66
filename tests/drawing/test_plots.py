"""Curves, heat maps, bars and grids show the numbers they were given, with names and units."""

import io
import math
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from figure_tools import assert_inside
from matplotlib.axes import Axes
from same_bits import digest

from darts_lib.drawing import plots
from darts_lib.drawing.plot_style import OPERATION_STROKES, STROKES, stroke_of
from darts_lib.search_space import EXTRA_PRIMITIVES, PRIMITIVES

CURVES = {
    plots.loss_curves: ("loss (nats)", ["train_loss", "valid_loss"]),
    plots.entropy_curve: ("entropy (nats)", ["entropy_normal", "entropy_reduce"]),
}
KEYS = [key for _, keys in CURVES.values() for key in keys]
HISTORY: list[dict[str, Any]] = [
    {"epoch": epoch, "genotype": {}} | {key: epoch / i for i, key in enumerate(KEYS, 2)}
    for epoch in (1, 2, 3)
]
ALPHAS = torch.randn(14, 8, generator=torch.Generator().manual_seed(0))


def assert_legible(ax: Any) -> None:
    """Every label lies inside the figure and is at least 10 points high."""
    ax.figure.draw_without_rendering()
    labels = [ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts]
    labels += ax.get_legend().get_texts() if ax.get_legend() else []
    labels += ax.get_yticklabels() + ax.get_xticklabels() if ax.images else []
    shown = [label for label in labels if label.get_text()]
    assert_inside(ax.figure, [label.get_window_extent() for label in shown])
    assert min(label.get_fontsize() for label in shown) >= 10


@pytest.mark.parametrize("draw", CURVES)
def test_curves_show_the_history(draw: Callable[..., Axes]) -> None:
    ax, (ylabel, keys) = draw(HISTORY), CURVES[draw]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", ylabel)
    for key, line in zip(keys, ax.lines, strict=False):
        assert line.get_label() == key.replace("_", " ")
        assert line.get_xydata().tolist() == [[row["epoch"], row[key]] for row in HISTORY]
    assert_legible(ax)


def test_as_many_curves_are_drawn_as_are_asked_for_and_differ_by_more_than_colour() -> None:
    keys = [f"figure_{number}" for number in range(11)]
    lines = plots.curves([dict.fromkeys(keys, 1.0)], keys, "value").lines
    assert len(lines) == len(keys)
    assert len({(line.get_linestyle(), line.get_marker()) for line in lines}) == len(STROKES)
    assert set(OPERATION_STROKES) == {*PRIMITIVES, *EXTRA_PRIMITIVES}
    assert len(set(OPERATION_STROKES.values())) == len(OPERATION_STROKES)
    assert stroke_of("my_own_operation").colour


def test_the_uniform_entropy_is_a_line() -> None:
    assert [*plots.entropy_curve(HISTORY).lines[-1].get_ydata()] == [math.log(8)] * 2
    assert plots.entropy_curve(HISTORY, primitives=3).lines[-1].get_label() == "uniform: ln 3"


def test_an_epoch_without_a_value_is_left_out_and_wrong_keys_are_named() -> None:
    rows = [{"epoch": 1, "a": 1.0}, {"epoch": 2}, {"epoch": 3, "a": None}, {"epoch": 4, "a": 2}]
    (line,) = plots.curves(rows, ["a"], "a").lines
    assert line.get_xydata().tolist() == [[1, 1], [4, 2]]
    with pytest.raises(ValueError, match="no epoch of the history has 'loss'; it has .*train_loss"):
        plots.curves(HISTORY, ["loss"], "loss")
    with pytest.raises(ValueError, match="genotype must be a number"):
        plots.curves(HISTORY, ["genotype"], "genotype")


@pytest.mark.parametrize("alphas", [ALPHAS, ALPHAS.numpy(), ALPHAS.clone().requires_grad_()])
def test_heat_map_shows_the_softmax(alphas: torch.Tensor) -> None:
    ax = plots.alpha_heat_map(alphas, title="Normal cell")
    np.testing.assert_allclose(ax.images[0].get_array(), ALPHAS.softmax(dim=1), rtol=1e-5)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == list(PRIMITIVES)
    rows = [tick.get_text() for tick in ax.get_yticklabels()]
    assert rows[:5] + rows[-1:] == ["0→2", "1→2", "0→3", "1→3", "2→3", "4→5"]
    assert ax.images[0].colorbar.ax.get_ylabel() == "softmax weight"
    assert_legible(ax)


def test_raw_heat_map_has_zero_in_the_middle_and_what_cannot_be_drawn_is_refused() -> None:
    image = plots.alpha_heat_map(ALPHAS, values="raw").images[0]
    np.testing.assert_allclose(image.get_array(), ALPHAS, rtol=1e-6)
    assert image.get_clim() == (-float(ALPHAS.abs().max()), float(ALPHAS.abs().max()))
    assert image.get_cmap().name == "PuOr"
    assert plots.alpha_heat_map(torch.zeros(2, 8), values="raw").images[0].get_clim() == (-1, 1)
    for alphas, values, words in (
        (ALPHAS, "probability", "'softmax' or 'raw', not 'probability'"),
        (ALPHAS[:, :7], "raw", r"8 primitives, not shape \(14, 7\)"),
        (ALPHAS[:13], "raw", "no cell has 13 edges"),
    ):
        with pytest.raises(ValueError, match=words):
            plots.alpha_heat_map(alphas, values=values)


def test_alpha_history_of_an_edge_and_of_the_mean() -> None:
    history = torch.stack([torch.zeros(14, 8), ALPHAS, 2 * ALPHAS])
    weights = torch.softmax(history.double(), dim=-1)
    ax = plots.alpha_history(history, edge=3)
    assert ax.get_title() == "edge 1→3"
    assert [line.get_label() for line in ax.lines] == list(PRIMITIVES)
    np.testing.assert_allclose(ax.lines[5].get_ydata(), weights[:, 3, 5])
    assert_legible(ax)
    mean = plots.alpha_history(history.numpy()).lines[2]
    np.testing.assert_allclose(mean.get_ydata(), weights.mean(dim=1)[:, 2])


def test_bars_show_values_and_errors_and_write_large_numbers_in_full() -> None:
    values = {"a": 3_424_440.0, "b": 1234.4, "c": 0.123456}
    ax = plots.bars(values, {"b": 0.5}, "seconds")
    assert [patch.get_width() for patch in ax.patches] == list(values.values())
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "b", "c"]
    assert ax.get_xlabel() == "seconds"
    assert [text.get_text() for text in ax.texts] == ["3,424,440", "1,234", "0.1235"]
    assert_legible(ax)
    _, axes = plt.subplots(1, 2, sharey=True)
    for ax in axes:
        plots.bars({"a": 1.0, "b": 2.0}, ax=ax)
    assert [ax.yaxis_inverted() for ax in axes] == [True, True]


def test_the_style_is_set_by_the_call_and_gives_the_same_bytes() -> None:
    _, ax = plt.subplots()
    assert plots.loss_curves(HISTORY, ax=ax) is ax
    assert len(plt.get_fignums()) == 1
    with mpl.rc_context():
        mpl.rcdefaults()
        plots.use_style()
        assert mpl.rcParams["image.cmap"] == "cividis"
        assert mpl.rcParams["font.size"] >= 10
        pictures = [io.BytesIO(), io.BytesIO()]
        for picture in pictures:
            plots.alpha_heat_map(ALPHAS).figure.savefig(picture, metadata={"Software": None})
        assert digest(pictures[0].getvalue()) == digest(pictures[1].getvalue())


def test_pictures_are_shown_as_they_are_and_feature_maps_stretched_and_in_viridis() -> None:
    images = torch.randint(0, 256, (5, 3, 4, 6), dtype=torch.uint8)
    shown = [ax for ax in plots.image_grid(images, list("abcde"), columns=3).axes if ax.images]
    assert [ax.get_title() for ax in shown] == list("abcde")
    np.testing.assert_array_equal(shown[1].images[0].get_array(), images[1].permute(1, 2, 0))
    assert plt.get_fignums() == []
    image = plots.image_grid(torch.linspace(-3, 5, 16).reshape(1, 1, 4, 4)).axes[0].images[0]
    assert image.get_cmap().name == "viridis"
    assert (image.get_array().min(), image.get_array().max()) == (0, 1)
    grey = plots.image_grid(torch.zeros(1, 1, 4, 4, dtype=torch.uint8)).axes[0].images[0]
    assert grey.get_cmap().name == "gray"
    with pytest.raises(ValueError, match=r"1 or 3 channels, height, width\), not \(1, 2, 4, 4\)"):
        plots.image_grid(torch.rand(1, 2, 4, 4))


def test_titles_do_not_touch_each_other() -> None:
    figure = plots.image_grid(torch.rand(12, 1, 8, 8), [f"channel {i}" for i in range(12)])
    figure.draw_without_rendering()
    boxes = [ax.title.get_window_extent() for ax in figure.axes if ax.get_title()]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_paths_show_every_step_start_and_optimum() -> None:
    first = torch.tensor([[2.0, -2.0], [2.2, 0.0], [2.0, 2.0]])
    paths = {"first order": first, "second order": torch.tensor([[2.0, -2.0], [1.0, 1.0]])}
    ax = plots.path_on_contours(paths)
    lines = {line.get_label(): line.get_xydata() for line in ax.lines}
    ideal = lines.pop("w*(α) = α")
    np.testing.assert_allclose(ideal[:, 0], ideal[:, 1])
    for name, path in {**paths, "start": [[2, -2]], "optimum": [[1, 1]]}.items():
        np.testing.assert_allclose(lines[name], path)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("α", "w")
