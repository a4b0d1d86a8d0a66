"""One look for every figure: colours that colour-blind readers can tell apart, markers, sizes.

Importing this changes nothing; `use_style()` does. Colours: the Okabe-Ito palette.
"""

from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY = "#777777"

WIDTH, HEIGHT = 7.0, 4.0
"""The largest single figure, in inches; at 100 dots an inch it fits a notebook's column."""


@dataclass(frozen=True)
class Stroke:
    """How a line is drawn: colour is never the only thing that tells two lines apart."""

    colour: str
    line: str = "-"
    marker: str = "o"

    @property
    def style(self) -> dict[str, Any]:
        """Return what `Axes.plot` is given."""
        return {"color": self.colour, "ls": self.line, "marker": self.marker}


STROKES = (
    Stroke(BLUE, "-", "o"),
    Stroke(VERMILION, "--", "s"),
    Stroke(GREEN, "-.", "^"),
    Stroke(PURPLE, ":", "D"),
    Stroke(ORANGE, "-", "v"),
    Stroke(SKY, "--", "P"),
    Stroke(BLACK, "-.", "X"),
    Stroke(GREY, ":", "*"),
)
"""Strokes for curves, in the order they are handed out."""

OPERATION_STROKES = {
    "none": Stroke(GREY, ":", "x"),
    "max_pool_3x3": Stroke(VERMILION, "-.", "v"),
    "avg_pool_3x3": Stroke(ORANGE, "-.", "^"),
    "skip_connect": Stroke(BLACK, ":", "o"),
    "sep_conv_3x3": Stroke(BLUE, "-", "s"),
    "sep_conv_5x5": Stroke(SKY, "-", "D"),
    "sep_conv_7x7": Stroke(BLUE, "--", "P"),
    "dil_conv_3x3": Stroke(GREEN, "--", "s"),
    "dil_conv_5x5": Stroke(PURPLE, "--", "D"),
    "conv_7x1_1x7": Stroke(PURPLE, "-", "X"),
}
"""An operation looks the same in every figure: convolutions solid or dashed, pools dash-dotted."""


def stroke_of(operation: str) -> Stroke:
    """Return an operation's stroke; one that a reader added gets a plain grey line."""
    return OPERATION_STROKES.get(operation, Stroke(GREY))


def use_style() -> None:
    """Set matplotlib's defaults for the whole session; a notebook calls this once, at the top."""
    plt.rcParams.update(
        {
            "figure.figsize": (6.4, 3.6),
            "figure.dpi": 100,
            "savefig.dpi": 100,
            "figure.constrained_layout.use": True,
            "font.size": 10,
            "axes.titlesize": 11,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.3,
            "axes.prop_cycle": cycler(color=[stroke.colour for stroke in STROKES]),
            "image.cmap": "cividis",
            "legend.frameon": False,
            # Without a fixed salt an SVG's inner names differ from run to run.
            "svg.hashsalt": "darts_lib",
        }
    )


def axes_or_new(ax: Axes | None, width: float = 6.4, height: float = 3.6) -> Axes:
    """Return `ax`, or the axes of a new figure of this size in inches."""
    return ax if ax is not None else plt.subplots(figsize=(width, height), layout="constrained")[1]


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure that pyplot does not keep.

    A notebook shows a returned figure once, as the value of its cell. Kept open, it would be shown
    twice and stay in memory.
    """
    figure = plt.figure(figsize=(width, height), layout="constrained")
    plt.close(figure)
    return figure


def cell_axes(
    ax: Axes | None, width: float, height: float, title: str | None = None
) -> tuple[Axes, float, float]:
    """Return `ax`, or new axes of this size, without a frame; and their width and height.

    All are in inches, and so are the coordinates in them. The figure's layout is settled for it.
    """
    ax = axes_or_new(ax, width, height)
    if title is not None:
        ax.set_title(title)
    ax.set_axis_off()
    figure = ax.get_figure(root=True)
    assert figure is not None, "axes outside a figure have no size"
    if engine := figure.get_layout_engine():
        engine.execute(figure)
    width, height = map(float, ax.get_position().size * figure.get_size_inches())
    ax.set(xlim=(0, width), ylim=(0, height))
    return ax, width, height
