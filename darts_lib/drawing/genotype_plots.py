"""How a cell was chosen, and what the choice costs: chapter 04's figures."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from darts_lib.derivation import one_hot_alphas
from darts_lib.drawing import plot_style as style
from darts_lib.drawing.cell_plots import HEADINGS
from darts_lib.drawing.plots import alpha_heat_map, bars
from darts_lib.genotype import Genotype
from darts_lib.search_space import KINDS, PRIMITIVES


def draw_choices(
    alphas: Mapping[str, Tensor], genotype: Genotype, primitives: Sequence[str] = PRIMITIVES
) -> Figure:
    """Draw the softmax weights of both kinds of cell, with a ring around each choice."""
    figure, chosen = style.new_figure(10.0, 4.6), one_hot_alphas(genotype, primitives)
    for ax, kind in zip(figure.subplots(1, 2), KINDS, strict=True):
        alpha_heat_map(alphas[kind], primitives, ax, HEADINGS[kind])
        rows, columns = (chosen[kind] == 0).nonzero(as_tuple=True)
        kept = columns != list(primitives).index("none")
        ring = {"marker": "o", "s": 60, "facecolors": "none", "lw": 2}
        ax.scatter(columns[kept], rows[kept], edgecolors=style.VERMILION, **ring)
    return figure


def draw_margins(found: Mapping[str, Sequence[tuple[float, str]]], count: int = 5) -> Figure:
    """Draw the `count` closest choices of each kind of cell; see `derivation.margins`."""
    figure = style.new_figure(6.4, 4.8)
    axes = figure.subplots(len(found), 1, sharex=True, squeeze=False)[:, 0]
    for ax, (kind, choices) in zip(axes, found.items(), strict=True):
        bars({change: round(margin, 4) for margin, change in choices[:count]}, ax=ax)
        ax.set_title(HEADINGS[kind])
    axes[-1].set_xlabel("margin (softmax weight)")
    return figure


def draw_rises(
    rises: Mapping[str, Sequence[float]], steps: Sequence[float], ax: Axes | None = None
) -> Axes:
    """Draw a supernet's accuracy (0 to 1) with the alphas of one primitive raised by `steps`."""
    ax = style.axes_or_new(ax, style.WIDTH, 3.6)
    for name, accuracies in rises.items():
        stroke = style.stroke_of(name)
        width = 3.5 if name == "none" else 1.3
        ax.plot(steps, 100 * np.asarray(accuracies), **stroke.style, lw=width, label=name)
    ax.set(xlabel="added to the alphas of one primitive, on all edges", ylabel="accuracy (%)")
    ax.set_ylim(0, 100)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def draw_gap(gap: Mapping[str, tuple[float, float]], images: int, classes: int) -> Figure:
    """Draw (loss, accuracy) of one supernet under several alphas, by their names."""
    figure = style.new_figure(10.0, 2.4)
    left, right = figure.subplots(1, 2)
    bars({name: round(loss, 2) for name, (loss, _) in gap.items()}, ax=left)
    left.axvline(math.log(classes), color=style.GREY, ls="--")
    left.set_xlabel("validation loss (nats); dashed: guessing")
    percent = {name: round(100 * accuracy, 1) for name, (_, accuracy) in gap.items()}
    errors = {name: math.sqrt(value * (100 - value) / images) for name, value in percent.items()}
    bars(percent, errors, "validation accuracy (%), with one standard error", ax=right)
    right.set_yticklabels([])
    return figure


def draw_comparison(right: Mapping[str, Sequence[int]], images: int) -> Figure:
    """Draw how many of `images` each cell got wrong, a mark a seed, one seed's marks joined."""
    figure = style.new_figure(7.0, 2.6)
    ax, names = figure.subplots(), list(right)
    for number, counts in enumerate(zip(*right.values(), strict=True)):
        stroke = style.STROKES[number % len(style.STROKES)]
        wrong = [images - count for count in counts]
        ax.plot(wrong, range(len(names)), **stroke.style, lw=0.8, ms=8, label=f"seed {number}")
    ax.set_yticks(range(len(names)), names)
    ax.set(xlabel=f"test images wrong, of {images:,}", ylim=(len(names) - 0.5, -0.5))
    ax.set_xlim(left=0)
    if ax.lines:
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
