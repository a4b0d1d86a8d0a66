"""Pictures: grids of images and feature maps, and the paths of the bilevel toy."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from darts_lib.drawing.plot_style import (
    BLACK,
    GREY,
    STROKES,
    VERMILION,
    WIDTH,
    axes_or_new,
    new_figure,
)

Pixels = Tensor | NDArray[np.floating] | NDArray[np.integer]


def image_grid(images: Pixels, titles: Sequence[str] | None = None, columns: int = 8) -> Figure:
    """Draw images `(n, channels, height, width)`: uint8, or floats stretched to their own range.

    Three channels are a colour picture. One channel is a feature map in viridis, or grey if uint8.
    Raises ValueError for another number of channels.
    """
    pictures = torch.as_tensor(images).detach().cpu()
    if pictures.ndim != 4 or pictures.shape[1] not in (1, 3) or len(pictures) == 0:
        raise ValueError(
            f"images must be (n, 1 or 3 channels, height, width), not {tuple(pictures.shape)}."
        )
    columns = min(columns, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    side = min(WIDTH / columns, 2.4)
    room = 0.25 if titles else 0.05
    ratio = pictures.shape[2] / pictures.shape[3]
    figure = new_figure(side * columns, rows * (side * ratio + room))
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for i, picture in enumerate(pictures):
        _show(axes[i], picture, titles[i] if titles else "")
    for ax in axes:
        ax.set_axis_off()
    return figure


def _show(ax: Axes, picture: Tensor, title: str) -> None:
    whole = not picture.is_floating_point()
    if whole:
        shown, top = picture.numpy(), 255.0
    else:
        spread = picture - picture.min()
        shown, top = (spread / spread.max().clamp(min=1e-12)).numpy(), 1.0
    pixels = shown[0] if len(shown) == 1 else shown.transpose(1, 2, 0)
    ax.imshow(pixels, cmap="gray" if whole else "viridis", vmin=0, vmax=top)
    ax.set_title(title, fontsize=10)


def path_on_contours(paths: Mapping[str, Pixels], ax: Axes | None = None) -> Axes:
    """Draw paths of (alpha, w), each `(steps, 2)`, on the paper's bilevel toy (figure 2).

    The contours are the validation loss alpha·w - 2·alpha + 1. On the line w = alpha the weights
    are the best for the training loss; the bilevel optimum on it is (1, 1).
    """
    ax = axes_or_new(ax, 6.4, 4.0)
    points = {name: torch.as_tensor(path).detach().cpu().double() for name, path in paths.items()}
    low, high = _limits(torch.cat(list(points.values())))
    _draw_toy(ax, low, high)
    for (name, path), stroke in zip(points.items(), itertools.cycle(STROKES), strict=False):
        alpha, weight = path.unbind(dim=1)
        ax.plot(alpha, weight, color=stroke.colour, ls=stroke.line, marker=stroke.marker, ms=4,
                markevery=0.08, label=name)  # as far apart on the paper, not in steps  # fmt: skip
    start = next(iter(points.values()))[0]
    ax.plot(*start, "o", ms=9, mfc="white", mec=BLACK, label="start", zorder=5, ls="")
    ax.plot(1, 1, "*", ms=15, mfc="white", mec=VERMILION, label="optimum", zorder=5, ls="")
    ax.set(xlabel="α", ylabel="w", xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def _limits(points: Tensor) -> tuple[list[float], list[float]]:
    """Return the corners of a frame around all points and the optimum, with a margin."""
    everything = torch.cat([points, torch.ones(1, 2, dtype=points.dtype)])
    low, high = everything.amin(dim=0), everything.amax(dim=0)
    margin = 0.12 * (high - low).clamp(min=0.5)
    return (low - margin).tolist(), (high + margin).tolist()


def _label_places(
    levels: Iterable[float], low: Sequence[float], high: Sequence[float]
) -> list[tuple[float, float]]:
    """Return a place for each level's number: on its contour, at the right, clear of the frame."""
    alpha, room = high[0] - 0.06 * (high[0] - low[0]), 0.04 * (high[1] - low[1])
    heights = [2 + (level - 1) / alpha for level in levels]
    return [(alpha, height) for height in heights if low[1] + room < height < high[1] - room]


def _draw_toy(ax: Axes, low: Sequence[float], high: Sequence[float]) -> None:
    alpha, weight = np.meshgrid(np.linspace(low[0], high[0], 80), np.linspace(low[1], high[1], 80))
    levels = ax.contour(alpha, weight, alpha * weight - 2 * alpha + 1, 12, cmap="cividis",
                        linewidths=0.8, alpha=0.7)  # fmt: skip
    ax.clabel(levels, fontsize=10, colors=GREY, manual=_label_places(levels.levels, low, high))
    ends = [min(low), max(high)]
    ax.plot(ends, ends, color=GREY, ls=(0, (6, 4)), lw=1.4, label="w*(α) = α")
