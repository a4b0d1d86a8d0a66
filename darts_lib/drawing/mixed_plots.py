"""One edge with all its operations: what a softmax does to a picture."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from darts_lib.drawing.cell_plots import HEADINGS
from darts_lib.drawing.plot_style import STROKES, axes_or_new, new_figure, stroke_of
from darts_lib.drawing.plots import alpha_heat_map, image_grid
from darts_lib.search_space import PRIMITIVES


def draw_mixed_edge(
    image: Tensor,
    outputs: Tensor,
    rows: Mapping[str, Tensor],
    primitives: Sequence[str] = PRIMITIVES,
) -> Figure:
    """Draw an edge once for each row of softmax weights, by its title.

    `image` `(h, w)` enters left, `outputs` `(primitives, h, w)` are what the operations make of it,
    and their weighted sum leaves right. A line is as thick as its weight.
    """
    figure = new_figure(8.0, 1.7 * len(rows))
    grid = figure.subplots(len(rows), 3, width_ratios=[1.0, 4.0, 1.0], squeeze=False)
    for (left, middle, right), (title, weights) in zip(grid, rows.items(), strict=True):
        mixed = (weights.view(-1, 1, 1).to(outputs) * outputs).sum(dim=0)
        for ax, picture, name in ((left, image, "state 0"), (right, mixed, "what node 2 hears")):
            ax.imshow(picture.numpy(), cmap="gray", interpolation="nearest")
            ax.set_title(name, fontsize=10)
            ax.set_axis_off()
        middle.set_title(title, fontsize=11)
        _strands(middle, weights.tolist(), primitives)
    return figure


def draw_maps(outputs: Mapping[str, Tensor], columns: int = 4) -> Figure:
    """Draw the last channel of the first image of each output, in grey over its own range."""
    last = torch.stack([output.detach()[0, -1:] for output in outputs.values()])
    low, high = last.amin((2, 3), keepdim=True), last.amax((2, 3), keepdim=True)
    grey = (255 * (last - low) / (high - low).clamp(min=1e-6)).byte()
    return image_grid(grey, list(outputs), columns)


def draw_alpha_gradients(gradient: Mapping[str, Tensor]) -> Figure:
    """Draw a gradient with respect to the alphas `(edges, primitives)` of each kind of cell."""
    figure = new_figure(9.0, 4.0)
    for ax, (kind, table) in zip(figure.subplots(1, 2), gradient.items(), strict=True):
        alpha_heat_map(table, ax=ax, title=HEADINGS[kind], values="raw")
    return figure


def draw_step_errors(
    steps: Sequence[float], errors: Mapping[str, Sequence[float]], ax: Axes | None = None
) -> Axes:
    """Draw the relative error of a central difference against its step, a curve a name."""
    ax = axes_or_new(ax)
    for (name, values), stroke in zip(errors.items(), STROKES, strict=False):
        ax.loglog(steps, values, label=name, **stroke.style)
    ax.set(xlabel="step h of the central difference", ylabel="relative error")
    ax.legend()
    return ax


def _strands(ax: Axes, weights: Sequence[float], primitives: Sequence[str]) -> None:
    ax.set(xlim=(0, 10), ylim=(-0.6, len(weights) - 0.4))
    ax.set_axis_off()
    middle, t = (len(weights) - 1) / 2, np.linspace(0, 1, 40)
    for place, (name, weight) in enumerate(zip(primitives, weights, strict=True)):
        height = len(weights) - 1 - place
        bend = np.clip(3 * np.minimum(t, 1 - t), 0, 1)
        y = middle + (height - middle) * bend * bend * (3 - 2 * bend)
        stroke = stroke_of(name)
        ax.plot(10 * t, y, color=stroke.colour, ls=stroke.line, lw=0.3 + 10 * weight, alpha=0.7)
        box = {"fc": "white", "ec": stroke.colour, "boxstyle": "round,pad=0.15", "lw": 0.8}
        ax.text(
            5, height, f"{name}  {weight:.2f}", ha="center", va="center", fontsize=7.5, bbox=box
        )
