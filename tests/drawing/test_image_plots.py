"""Image grids and the bilevel toy's paths."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from darts_lib.drawing.plots import image_grid, path_on_contours


def test_pictures_are_shown_as_they_are_and_feature_maps_stretched_and_in_viridis() -> None:
    images = torch.randint(0, 256, (5, 3, 4, 6), dtype=torch.uint8)
    figure = image_grid(images, titles=list("abcde"), columns=3)
    shown = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title() for ax in shown] == list("abcde")
    np.testing.assert_array_equal(
        shown[1].images[0].get_array(), images[1].permute(1, 2, 0).numpy()
    )
    assert plt.get_fignums() == []
    figure = image_grid(torch.linspace(-3, 5, 16).reshape(1, 1, 4, 4))
    image = figure.axes[0].images[0]
    assert image.get_cmap().name == "viridis"
    assert (image.get_array().min(), image.get_array().max()) == (0, 1)
    grey = image_grid(torch.zeros(1, 1, 4, 4, dtype=torch.uint8)).axes[0].images[0]
    assert grey.get_cmap().name == "gray"
    with pytest.raises(ValueError, match=r"1 or 3 channels, height, width\), not \(1, 2, 4, 4\)"):
        image_grid(torch.rand(1, 2, 4, 4))


def test_titles_do_not_touch_each_other() -> None:
    figure = image_grid(torch.rand(12, 1, 8, 8), [f"channel {i}" for i in range(12)])
    figure.draw_without_rendering()
    boxes = [ax.title.get_window_extent() for ax in figure.axes if ax.get_title()]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_paths_show_every_step_start_and_optimum() -> None:
    paths = {
        "first order": torch.tensor([[2.0, -2.0], [2.2, 0.0], [2.0, 2.0]]),
        "second order": torch.tensor([[2.0, -2.0], [1.0, 1.0]]),
    }
    ax = path_on_contours(paths)
    lines = {line.get_label(): line.get_xydata() for line in ax.lines}
    for name, path in paths.items():
        np.testing.assert_allclose(lines[name], path)
    np.testing.assert_allclose(lines["start"], [[2, -2]])
    np.testing.assert_allclose(lines["optimum"], [[1, 1]])
    ideal = lines["w*(α) = α"]
    np.testing.assert_allclose(ideal[:, 0], ideal[:, 1])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("α", "w")
