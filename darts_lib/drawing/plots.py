"""Curves over epochs, alphas and bars: each function takes data and axes, and returns the axes.

Without `ax` it opens a figure of its own, which a notebook then shows. `use_style()` sets the look.
Cells are in `cell_plots`, pictures and the bilevel toy in `image_plots`.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray
from torch import Tensor

from darts_lib.drawing.plot_style import (
    BLACK,
    BLUE,
    GREY,
    STROKES,
    WIDTH,
    axes_or_new,
    stroke_of,
    use_style,
)
from darts_lib.search_space import PRIMITIVES, edges, nodes_of

__all__ = [
    "accuracy_curves",
    "alpha_heat_map",
    "alpha_history",
    "bars",
    "curves",
    "edge_names",
    "entropy_curve",
    "learning_rates",
    "loss_curves",
    "skip_counts",
    "use_style",
]

History = Sequence[Mapping[str, object]]
"""One mapping an epoch, as in a run's `history.jsonl`."""

Values = Tensor | NDArray[np.floating]


# --- curves over epochs -----------------------------------------------------------------------


def curves(history: History, keys: Sequence[str], ylabel: str, ax: Axes | None = None) -> Axes:
    """Draw the given keys of a history over its epochs; an epoch without a key is left out.

    Raises ValueError for a key that no epoch has.
    """
    ax = axes_or_new(ax)
    for key, stroke in zip(keys, itertools.cycle(STROKES), strict=False):
        epochs, values = _series(history, key)
        ax.plot(epochs, values, color=stroke.colour, ls=stroke.line, marker=stroke.marker,
                ms=5, markevery=_sparse(len(epochs)), label=key.replace("_", " "))  # fmt: skip
    ax.set(xlabel="epoch", ylabel=ylabel)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend()
    return ax


def _series(history: History, key: str) -> tuple[list[float], list[float]]:
    rows = [(row.get("epoch", i), row[key]) for i, row in enumerate(history) if key in row]
    points = [(_number("epoch", x), _number(key, y)) for x, y in rows if y is not None]
    if not points:
        known = sorted({name for row in history for name in row})
        raise ValueError(f"no epoch of the history has {key!r}; it has {', '.join(known)}.")
    return [x for x, _ in points], [y for _, y in points]


def _number(key: str, value: object) -> float:
    if not isinstance(value, int | float):
        raise ValueError(f"{key} must be a number to be drawn, not {value!r}.")
    return float(value)


def _sparse(count: int) -> int:
    """Return how many points apart markers stand, so that some twenty are drawn."""
    return max(1, count // 20)


def loss_curves(
    history: History,
    keys: Sequence[str] = ("train_loss", "valid_loss"),
    ax: Axes | None = None,
) -> Axes:
    """Draw losses, the cross-entropy in nats, over epochs."""
    return curves(history, keys, "loss (nats)", ax)


def accuracy_curves(
    history: History,
    keys: Sequence[str] = ("train_accuracy", "valid_accuracy"),
    ax: Axes | None = None,
) -> Axes:
    """Draw accuracies, given as fractions of 1, in percent over epochs."""
    ax = curves(history, keys, "accuracy (%)", ax)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    return ax


def entropy_curve(
    history: History,
    keys: Sequence[str] = ("entropy_normal", "entropy_reduce"),
    primitives: int = len(PRIMITIVES),
    ax: Axes | None = None,
) -> Axes:
    """Draw the mean entropy of the edges' weights in nats, with the uniform mixture's above it."""
    ax = curves(history, keys, "entropy (nats)", ax)
    label = f"uniform: ln {primitives}"
    ax.axhline(math.log(primitives), color=GREY, ls=(0, (6, 4)), lw=1.2, label=label)
    ax.legend()
    return ax


def skip_counts(history: History, keys: Sequence[str] = ("skips",), ax: Axes | None = None) -> Axes:
    """Draw the skip connections in each epoch's normal cell; three or more are called collapse."""
    ax = curves(history, keys, "skip connections", ax)
    ax.axhline(3, color=GREY, ls=(0, (6, 4)), lw=1.2, label="collapse: 3 or more")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_ylim(bottom=-0.2)
    ax.legend()
    return ax


def learning_rates(
    history: History, keys: Sequence[str] = ("learning_rate",), ax: Axes | None = None
) -> Axes:
    """Draw learning rates, on an axis that begins at zero."""
    ax = curves(history, keys, "learning rate", ax)
    ax.set_ylim(bottom=0)
    return ax


# --- alphas -----------------------------------------------------------------------------------


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
    ax = axes_or_new(ax, 5.6, 1.7 + 0.17 * len(data))
    if values == "softmax":
        shown = torch.softmax(data, dim=-1)
        image = ax.imshow(shown.numpy(), cmap="cividis", vmin=0.0, aspect="auto")
    else:
        top = float(data.abs().max()) or 1.0
        image = ax.imshow(data.numpy(), cmap="PuOr", vmin=-top, vmax=top, aspect="auto")
    _label_heat_map(ax, edge_names(len(data)), primitives, title)
    ax.figure.colorbar(image, ax=ax, label="softmax weight" if values == "softmax" else "value")
    return ax


def _as_tensor(values: Values, dimensions: int, primitives: Sequence[str]) -> Tensor:
    tensor = torch.as_tensor(values).detach().cpu().double()
    if tensor.ndim != dimensions or tensor.shape[-1] != len(primitives):
        raise ValueError(
            f"expected {dimensions} dimensions, the last of {len(primitives)} primitives, not "
            f"shape {tuple(tensor.shape)}."
        )
    return tensor


def _label_heat_map(ax: Axes, rows: Sequence[str], columns: Sequence[str], title: str) -> None:
    ax.set_xticks(range(len(columns)), columns, rotation=40, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(rows)), rows)
    ax.set(title=title, ylabel="edge (source→node)")
    ax.grid(visible=False)


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
    ax = axes_or_new(ax, WIDTH, 3.8)
    for column, name in enumerate(primitives):
        stroke = stroke_of(name)
        ax.plot(shown[:, column].numpy(), color=stroke.colour, ls=stroke.line, ms=5,
                marker=stroke.marker, markevery=_sparse(len(shown)), label=name)  # fmt: skip
    where = "mean of all edges" if edge is None else f"edge {edge_names(history.shape[1])[edge]}"
    ax.set(xlabel="epoch", ylabel="softmax weight", title=where, ylim=(0, None))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def bars(
    values: Mapping[str, float],
    errors: Mapping[str, float] | None = None,
    ylabel: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw horizontal bars, the first on top, with error bars where `errors` has the name.

    `ylabel` says what is measured and in which unit; it stands below, along the bars.
    """
    ax = axes_or_new(ax, 6.4, min(4.0, 0.9 + 0.36 * len(values)))
    names, sizes = list(values), list(values.values())
    spans = [errors.get(name, math.nan) for name in names] if errors else None
    drawn = ax.barh(names, sizes, xerr=spans, color=BLUE, height=0.6, capsize=3, ecolor=BLACK)
    # On a patch of its own, so that a line that a caller draws ends at the number.
    patch = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    ax.bar_label(drawn, [_grouped(size) for size in sizes], padding=4, bbox=patch)
    if not ax.yaxis_inverted():  # axes that share theirs are turned once
        ax.invert_yaxis()
    ax.set_axisbelow(True)
    ax.margins(x=0.15)
    ax.grid(visible=False, axis="y")
    ax.set_xlabel(ylabel)
    return ax


def _grouped(size: float) -> str:
    """Write 1,234,567 in full, and a small number with four digits that count."""
    return f"{size:,.0f}" if abs(size) >= 1000 else f"{size:.4g}"
