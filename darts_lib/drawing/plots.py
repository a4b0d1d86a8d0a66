"""Curves over epochs, alphas and bars; grids of images and the paths of the bilevel toy.

Each function takes data and axes, and returns the axes; without `ax` it opens a figure of its own,
which a notebook then shows. `use_style()` sets the look. Cells are in `cell_plots`.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from darts_lib.drawing import plot_style as style
from darts_lib.drawing.plot_style import use_style as use_style
from darts_lib.search_space import PRIMITIVES, edges, nodes_of

History = Sequence[Mapping[str, Any]]
"""One mapping an epoch, as in a run's `history.jsonl`."""

Values = Tensor | NDArray[np.floating] | NDArray[np.integer]


def curves(history: History, keys: Sequence[str], ylabel: str, ax: Axes | None = None) -> Axes:
    """Draw the given keys of a history over its epochs; an epoch without a key is left out.

    Raises ValueError for a key that no epoch has, and for a value that is no number.
    """
    ax = style.axes_or_new(ax)
    for key, stroke in zip(keys, itertools.cycle(style.STROKES), strict=False):
        rows = [(i, row) for i, row in enumerate(history) if row.get(key) is not None]
        if not rows:
            known = sorted({name for row in history for name in row})
            raise ValueError(f"no epoch of the history has {key!r}; it has {', '.join(known)}.")
        values = [row[key] for _, row in rows]
        if wrong := [value for value in values if not isinstance(value, int | float)]:
            raise ValueError(f"{key} must be a number to be drawn, not {wrong[0]!r}.")
        epochs = [row.get("epoch", i) for i, row in rows]
        _curve(ax, epochs, values, stroke, key.replace("_", " "))
    ax.set_ylabel(ylabel)
    ax.legend()
    return ax


def _curve(ax: Axes, epochs: Sequence[int], values: Any, stroke: style.Stroke, label: str) -> None:
    """Draw one curve over epochs, with some twenty markers on it."""
    every = max(1, len(epochs) // 20)
    ax.plot(epochs, values, ms=5, markevery=every, label=label, **stroke.style)
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _level(ax: Axes, height: float, label: str) -> None:
    """Draw a dashed line across, and name it in the legend."""
    ax.axhline(height, color=style.GREY, ls=(0, (6, 4)), lw=1.2, label=label)
    ax.legend()


def loss_curves(history: History, ax: Axes | None = None) -> Axes:
    """Draw the losses of both splits, the cross-entropy in nats, over epochs."""
    return curves(history, ["train_loss", "valid_loss"], "loss (nats)", ax)


def entropy_curve(
    history: History, primitives: int = len(PRIMITIVES), ax: Axes | None = None
) -> Axes:
    """Draw the mean entropy of the edges' weights in nats, with the uniform mixture's above it."""
    ax = curves(history, ["entropy_normal", "entropy_reduce"], "entropy (nats)", ax)
    _level(ax, math.log(primitives), f"uniform: ln {primitives}")
    return ax


def edge_names(count: int) -> tuple[str, ...]:
    """Return the names of alpha's rows, `0→2` for the edge from state 0 to state 2."""
    return tuple(f"{source}→{target}" for source, target in edges(nodes_of(count)))


def alpha_heat_map(
    alphas: Values,
    primitives: Sequence[str] = PRIMITIVES,
    ax: Axes | None = None,
    title: str = "",
    values: str = "softmax",
) -> Axes:
    """Draw alphas `(edges, primitives)` as a heat map with a row for each edge.

    `values="softmax"` takes logits and draws their softmax; `"raw"` draws the numbers as they
    are on a scale with 0 in the middle, for gradients. Raises ValueError for another shape or word.
    """
    if values not in ("softmax", "raw"):
        raise ValueError(f"values must be 'softmax' or 'raw', not {values!r}.")
    data = _as_tensor(alphas, 2, primitives)
    ax = style.axes_or_new(ax, 5.6, 1.7 + 0.17 * len(data))
    if values == "softmax":
        shown, label = torch.softmax(data, dim=-1), "softmax weight"
        image = ax.imshow(shown.numpy(), cmap="cividis", vmin=0.0, aspect="auto")
    else:
        top, label = float(data.abs().max()) or 1.0, "gradient"
        image = ax.imshow(data.numpy(), cmap="PuOr", vmin=-top, vmax=top, aspect="auto")
    columns = range(len(primitives))
    ax.set_xticks(columns, primitives, rotation=40, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(data)), edge_names(len(data)))
    ax.set(title=title, ylabel="edge (source→node)")
    ax.grid(visible=False)
    ax.figure.colorbar(image, ax=ax, label=label)
    return ax


def _as_tensor(values: Values, dimensions: int, primitives: Sequence[str]) -> Tensor:
    tensor = torch.as_tensor(values).detach().cpu().double()
    if tensor.ndim != dimensions or tensor.shape[-1] != len(primitives):
        raise ValueError(
            f"expected {dimensions} dimensions, the last of {len(primitives)} primitives, not "
            f"shape {tuple(tensor.shape)}."
        )
    return tensor


def alpha_history(
    history: Values,
    primitives: Sequence[str] = PRIMITIVES,
    edge: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw each primitive's softmax weight over epochs: on the edge in row `edge`, or the mean.

    `history` holds logits `(epochs + 1, edges, primitives)`; entry 0 is the start.
    """
    weights = torch.softmax(_as_tensor(history, 3, primitives), dim=-1)
    shown = weights.mean(dim=1) if edge is None else weights[:, edge]
    ax = style.axes_or_new(ax, style.WIDTH, 3.8)
    for name, values in zip(primitives, shown.unbind(1), strict=True):
        _curve(ax, range(len(values)), values.numpy(), style.stroke_of(name), name)
    where = "mean of all edges" if edge is None else f"edge {edge_names(history.shape[1])[edge]}"
    ax.set(ylabel="softmax weight", title=where, ylim=(0, None))
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def bars(
    values: Mapping[str, float],
    errors: Mapping[str, float] | None = None,
    ylabel: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw horizontal bars, the first on top, with error bars where `errors` has the name.

    `ylabel` says what is measured and in which unit; it stands below, along the bars. A number of
    a thousand or more is written in full, a smaller one with the four digits that count.
    """
    ax = style.axes_or_new(ax, 6.4, min(4.0, 0.9 + 0.36 * len(values)))
    names, sizes = list(values), list(values.values())
    spans = [errors.get(name, math.nan) for name in names] if errors else None
    drawn = ax.barh(names, sizes, 0.6, xerr=spans, color=style.BLUE, capsize=3, ecolor=style.BLACK)
    texts = [f"{size:,.0f}" if abs(size) >= 1000 else f"{size:.4g}" for size in sizes]
    # On a patch of its own, so that a line that a caller draws ends at the number.
    ax.bar_label(drawn, texts, padding=4, bbox={"fc": "white", "ec": "none", "pad": 1})
    if not ax.yaxis_inverted():  # axes that share theirs are turned once
        ax.invert_yaxis()
    ax.set_axisbelow(True)
    ax.margins(x=0.15)
    ax.grid(visible=False, axis="y")
    ax.set_xlabel(ylabel)
    return ax


def image_grid(images: Values, titles: Sequence[str] | None = None, columns: int = 8) -> Figure:
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
    side, room = min(style.WIDTH / columns, 2.4), 0.25 if titles else 0.05
    ratio = pictures.shape[2] / pictures.shape[3]
    figure = style.new_figure(side * columns, rows * (side * ratio + room))
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for i, picture in enumerate(pictures):
        top, colours = 255, "gray"
        if picture.is_floating_point():
            spread = picture - picture.min()
            picture, top, colours = spread / spread.max().clamp(min=1e-12), 1, "viridis"
        pixels = picture[0] if len(picture) == 1 else picture.permute(1, 2, 0)
        axes[i].imshow(pixels.numpy(), cmap=colours, vmin=0, vmax=top)
        axes[i].set_title(titles[i] if titles else "", fontsize=10)
    for ax in axes:
        ax.set_axis_off()
    return figure


def path_on_contours(paths: Mapping[str, Values], ax: Axes | None = None) -> Axes:
    """Draw paths of (alpha, w), each `(steps, 2)`, on the paper's bilevel toy (figure 2).

    The contours are the validation loss alpha·w - 2·alpha + 1. On the line w = alpha the weights
    are the best for the training loss; the bilevel optimum on it is (1, 1).
    """
    ax = style.axes_or_new(ax, 6.4, 4.0)
    points = {name: torch.as_tensor(path).detach().cpu().double() for name, path in paths.items()}
    shown = torch.cat([*points.values(), torch.ones(1, 2).double()])
    low, high = shown.amin(dim=0), shown.amax(dim=0)
    margin = 0.12 * (high - low).clamp(min=0.5)
    (left, bottom), (right, top) = (low - margin).tolist(), (high + margin).tolist()
    alpha, weight = np.meshgrid(np.linspace(left, right, 80), np.linspace(bottom, top, 80))
    loss = alpha * weight - 2 * alpha + 1
    contours = ax.contour(alpha, weight, loss, 12, cmap="cividis", linewidths=0.8, alpha=0.7)
    at, room = right - 0.06 * (right - left), 0.04 * (top - bottom)  # each has its number there
    heights = [2 + (level - 1) / at for level in contours.levels]
    places = [(at, height) for height in heights if bottom + room < height < top - room]
    ax.clabel(contours, fontsize=10, colors=style.GREY, manual=places)
    ends = [min(left, bottom), max(right, top)]
    ax.plot(ends, ends, color=style.GREY, ls=(0, (6, 4)), lw=1.4, label="w*(α) = α")
    ax.set(xlabel="α", ylabel="w", xlim=(left, right), ylim=(bottom, top))
    for (name, path), stroke in zip(points.items(), itertools.cycle(style.STROKES), strict=False):
        # Markers are as far apart on the paper, not in steps.
        ax.plot(*path.unbind(dim=1), ms=4, markevery=0.08, label=name, **stroke.style)
    start = next(iter(points.values()))[0]
    ax.plot(*start, "o", ms=9, mfc="white", mec=style.BLACK, label="start", zorder=5, ls="")
    ax.plot(1, 1, "*", ms=15, mfc="white", mec=style.VERMILION, label="optimum", zorder=5, ls="")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax
