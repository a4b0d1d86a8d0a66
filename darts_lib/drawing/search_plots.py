"""Figures of the search: the toy, a kink and what a finite difference makes of it, a collapse."""

import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from PIL import Image, ImageSequence

from darts_lib.drawing import plot_style as style
from darts_lib.drawing import plots

SLOPE, JUMP, KINK = 0.6, 1.0, 0.6
"""The drawn loss: its slope rises by SLOPE for each unit of w, and by JUMP at w = KINK."""


def toy_paths(paths: Mapping[str, plots.Values], ax: Axes | None = None) -> Axes:
    """Draw `path_on_contours` with both axes on one scale and first order's end, (2, 2), marked."""
    ax = plots.path_on_contours(paths, style.axes_or_new(ax, style.WIDTH, 5.0))
    ax.plot(2, 2, "X", ms=11, mfc="white", mec=style.BLACK, label="(2, 2)", zorder=5, ls="")
    ax.set_aspect("equal")
    for height in ax.texts:  # the axes are narrow now
        height.set_clip_on(False)
    ax.legend(loc="center left", bbox_to_anchor=(1.08, 0.5))
    return ax


def alpha_slope(w: float) -> float:
    """Return the slope of the drawn loss at w: a line with a jump at `KINK`."""
    return SLOPE * w + JUMP * (w > KINK)


def draw_kink() -> Figure:
    """Draw a slope with a jump, two differences across it, and what a difference of any h gives."""
    figure = style.new_figure(9.0, 3.5)
    left, right = figure.subplots(1, 2)
    for ends in ((-1.3, KINK), (KINK + 1e-9, 1.3)):
        left.plot(ends, [alpha_slope(w) for w in ends], color=style.BLUE, lw=2)
    left.plot([KINK, KINK], [SLOPE * KINK, SLOPE * KINK + JUMP], color=style.BLUE, lw=1, ls=":")
    left.text(KINK + 0.06, SLOPE * KINK + JUMP / 2, "jump J", va="center")
    for h, stroke in ((1.0, style.STROKES[1]), (0.4, style.STROKES[2])):
        ends = (-h, h)
        quotient = (alpha_slope(h) - alpha_slope(-h)) / (2 * h)
        label = f"h = {h}: mean slope {quotient:.1f}"
        left.plot(ends, [alpha_slope(w) for w in ends], **stroke.style, ms=7, lw=1.5, label=label)
    left.set(xlabel="distance from w along v", ylabel="gradient with respect to α")
    left.legend(loc="upper left")
    distance = np.geomspace(0.02, 10, 400)
    inside = SLOPE + np.where(distance > KINK, JUMP / (2 * distance), 0)
    right.semilogx(distance, inside, color=style.BLACK, lw=2, label="difference over 2h")
    right.axhline(SLOPE, color=style.GREY, ls=(0, (6, 4)), lw=1.2, label="derivative at w")
    for h, stroke in ((1.0, style.STROKES[1]), (0.4, style.STROKES[2])):
        right.plot(h, (alpha_slope(h) - alpha_slope(-h)) / (2 * h), **stroke.style, ms=8)
    right.set(xlabel="h", ylabel="what is returned", ylim=(0, 1.9))
    right.legend(loc="upper right")
    return figure


def error_curves(
    radii: Sequence[float], errors: Mapping[str, Sequence[float]], ax: Axes | None = None
) -> Axes:
    """Draw relative errors of the implicit term against R, a line each, both axes logarithmic."""
    ax = style.axes_or_new(ax, style.WIDTH, 3.6)
    for (name, values), stroke in zip(errors.items(), itertools.cycle(style.STROKES), strict=False):
        ax.loglog(radii, values, label=name, **stroke.style)
    ax.axvline(1e-2, color=style.GREY, ls=":", label="the paper's R")
    ax.set(xlabel="R", ylabel="relative error, implicit term")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def loss_along(moves: Sequence[float], losses: Mapping[str, Sequence[float]]) -> Figure:
    """Draw losses, relative to that at the start, as the alphas move along a line."""
    figure = style.new_figure(style.WIDTH, 3.4)
    ax = figure.subplots()
    for (name, values), stroke in zip(losses.items(), style.STROKES, strict=False):
        ax.plot(moves, values, color=stroke.colour, ls=stroke.line, label=name)
    ax.axvline(0, color=style.GREY, lw=1, ls=":")
    ax.set(xlabel="how far the alphas move, along one direction", ylabel="loss after the step")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def search_curves(history: plots.History, alphas: plots.Values, edge: int) -> Figure:
    """Draw a search: losses, entropies, and the softmax weights of one edge of the normal cell."""
    figure = style.new_figure(10.5, 3.9)
    axes = figure.subplots(1, 3, width_ratios=(1, 1, 1.25))
    plots.loss_curves(history, axes[0]).set_title("supernet, proxy")
    plots.entropy_curve(history, ax=axes[1])
    for ax in axes[:2]:
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2))
    plots.alpha_history(alphas, edge=edge, ax=axes[2])
    return figure


@dataclass(frozen=True)
class MovingPicture:
    """An animated PNG, which a notebook shows as the value of its cell."""

    png: bytes

    def _repr_png_(self) -> bytes:
        return self.png

    def __repr__(self) -> str:
        return "MovingPicture"


def moving_picture(gif: Path) -> MovingPicture:
    """Return a GIF's frames as an animated PNG: pages that show no GIF show this, and move it."""
    target = io.BytesIO()
    with Image.open(gif) as picture:
        palette = picture.convert("P")  # of all frames, which are small only with it
        frames = [
            frame.convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE)
            for frame in ImageSequence.Iterator(picture)
        ]
        times = [frame.info["duration"] for frame in ImageSequence.Iterator(picture)]
    frames[0].save(target, "PNG", save_all=True, append_images=frames[1:], duration=times, loop=0)
    return MovingPicture(target.getvalue())


def draw_collapse(
    shares: Sequence[float],
    accuracies: Sequence[float],
    sweep: Mapping[float, float],
    alone: Mapping[str, float],
) -> Figure:
    """Draw a search between a skip and a convolution, and what its supernet makes of any mixture.

    `shares` and `accuracies` are the skip's softmax weight and the supernet's accuracy after each
    epoch; `sweep` gives the trained supernet's accuracy by skip's weight; `alone` that of networks
    which were trained without the other candidate.
    """
    figure = style.new_figure(9.0, 3.6)
    left, right = figure.subplots(1, 2)
    epochs = range(1, len(shares) + 1)
    left.plot(epochs, accuracies, label="accuracy, supernet", ms=4, **style.STROKES[0].style)
    left.plot(epochs, shares, label="softmax weight of skip", ms=4, **style.STROKES[1].style)
    left.axhline(0.5, color=style.GREY, ls=(0, (6, 4)), lw=1.2, label="both alike")
    left.set(xlabel="epoch", ylim=(0, 1))
    right.plot([*sweep], [*sweep.values()], label="supernet, as trained", ms=4, color=style.BLUE)
    right.axvline(shares[-1], color=style.VERMILION, ls="--", label="where the search ended")
    for (name, value), place in zip(alone.items(), (0.0, 1.0), strict=True):
        stroke = style.STROKES[3 if place else 2]
        mark = {"color": stroke.colour, "marker": stroke.marker, "ls": "", "ms": 9}
        right.plot(place, value, clip_on=False, zorder=5, label=name, **mark)
    right.set(xlabel="softmax weight of skip", ylabel="accuracy (%)", ylim=(0, 1))
    for ax in (left, right):
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=9)
    right.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    return figure
