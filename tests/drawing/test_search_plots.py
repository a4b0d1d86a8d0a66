"""Figures of the search: each shows what it is given, and what is drawn of a kink is true."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from darts_lib.drawing import (
    draw_collapse,
    draw_kink,
    error_curves,
    loss_along,
    moving_picture,
    search_curves,
    search_gif,
    toy_paths,
)
from darts_lib.drawing.search_plots import JUMP, KINK, SLOPE
from darts_lib.genotype import PUBLISHED


def test_the_toy_has_equal_axes_and_the_wrong_end_is_marked() -> None:
    ax = toy_paths({"first order": torch.tensor([[2.0, -2.0], [2.0, 2.0]])})
    assert ax.get_aspect() == 1
    marked = {line.get_label(): line.get_xydata()[0].tolist() for line in ax.lines}
    assert (marked["(2, 2)"], marked["optimum"]) == ([2, 2], [1, 1])


def test_a_difference_across_a_jump_returns_the_slope_and_the_jump_over_its_width() -> None:
    left, right = draw_kink().axes
    shown = [line for line in left.lines if str(line.get_label()).startswith("h = ")]
    for line in shown:
        (low, first), (high, second) = line.get_xydata()
        jump = JUMP if high > KINK else 0
        assert second - first == pytest.approx(SLOPE * (high - low) + jump)
    h, returned = right.lines[0].get_data()
    np.testing.assert_allclose(returned[h < KINK], SLOPE)
    assert returned.max() == pytest.approx(SLOPE + JUMP / (2 * KINK), rel=0.02)


def test_curves_show_what_they_are_given() -> None:
    ax = error_curves([0.1, 0.01], {"smooth": [1e-2, 1e-4], "kinks": [1.0, 9.0]})
    assert [*ax.lines[1].get_ydata()] == [1.0, 9.0]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    (ax,) = loss_along([-1, 0, 1], {"ReLU": [0.5, 0.0, 0.7]}).axes
    assert [*ax.lines[0].get_ydata()] == [0.5, 0.0, 0.7]
    keys = ("train_loss", "valid_loss", "entropy_normal", "entropy_reduce")
    figure = search_curves([dict.fromkeys(keys, 1.0)] * 2, torch.zeros(3, 14, 8), edge=3)
    assert [ax.get_title() for ax in figure.axes] == ["supernet, proxy", "", "edge 1→3"]


def test_a_collapse_ends_where_the_last_share_is() -> None:
    left, right = draw_collapse(
        [0.5, 0.6], [0.2, 0.9], {0: 0.1, 0.5: 0.9, 1: 0.1}, {"a": 0.7, "b": 0.2}
    ).axes
    assert [*left.lines[1].get_ydata()] == [0.5, 0.6]
    found = {line.get_label(): line.get_xydata().tolist() for line in right.lines}
    assert found["a"] == [[0.0, 0.7]]
    assert found["b"] == [[1.0, 0.2]]
    assert found["where the search ended"][0][0] == 0.6


def test_a_moving_picture_has_the_frames_of_the_gif(tmp_path) -> None:
    gif = search_gif([PUBLISHED["DARTS_V1"], PUBLISHED["DARTS_V2"]], tmp_path / "a.gif")
    png = moving_picture(gif)._repr_png_()
    with Image.open(io.BytesIO(png)) as ours, Image.open(gif) as theirs:
        assert (ours.n_frames, ours.size) == (theirs.n_frames, theirs.size)
        for number in range(2):
            ours.seek(number)
            theirs.seek(number)
            pixels = [np.asarray(each.convert("RGB"), dtype=int) for each in (ours, theirs)]
            assert abs(pixels[0] - pixels[1]).max() <= 40, "one palette for all frames"
