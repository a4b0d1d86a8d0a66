"""The whole method in one picture, a panel a chapter, with a mark where the reader is."""

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from darts_lib.drawing.plot_style import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION, new_figure
from darts_lib.search_space import edges

STATES = ((0.14, 0.72), (0.14, 0.28), (0.44, 0.82), (0.44, 0.18), (0.68, 0.62), (0.86, 0.36))
"""Where a panel's little cell has its states: two inputs, four nodes."""
COLOURS = (BLUE, VERMILION, GREEN, PURPLE)
KEPT = ((0, 2), (1, 2), (1, 3), (2, 3), (0, 4), (3, 4), (2, 5), (4, 5))
"""Two edges into each node: the cell that the little search finds."""


def draw_pipeline(here: int) -> Figure:
    """Draw the seven steps of the course; the chapter `here` (1 to 7) has the frame."""
    if here not in range(1, len(STEPS) + 1):
        raise ValueError(f"here is {here!r}: name a chapter from 1 to {len(STEPS)}.")
    figure = new_figure(10.0, 1.75)
    for number, (ax, (title, draw)) in enumerate(
        zip(figure.subplots(1, len(STEPS)), STEPS.items(), strict=True), start=1
    ):
        ax.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[])
        ax.grid(visible=False)
        for spine in ax.spines.values():
            spine.set(visible=True, color=VERMILION if number == here else "#CCCCCC")
            spine.set_linewidth(2.5 if number == here else 1)
        weight = "bold" if number == here else "normal"
        ax.set_title(f"{number} · {title}", fontsize=9.5, weight=weight)
        note = "you are here" if number == here else " "
        ax.set_xlabel(note, fontsize=9.5, color=VERMILION, weight="bold")
        draw(ax)
    return figure


def _lines(
    ax: Axes, pairs: Sequence[tuple[int, int]], colours: Sequence[str], width: float
) -> None:
    for source, target in pairs:
        (x0, y0), (x1, y1) = STATES[source], STATES[target]
        for number, colour in enumerate(colours):
            shift = 0.03 * (number - (len(colours) - 1) / 2)
            ax.plot([x0, x1], [y0 + shift, y1 + shift], color=colour, lw=width, zorder=1)


def _states(ax: Axes) -> None:
    for number, (x, y) in enumerate(STATES):
        face = "#DDDDDD" if number < 2 else "white"
        ax.plot(x, y, "o", ms=7, mfc=face, mec="black", mew=0.8, zorder=2)


def _space(ax: Axes) -> None:
    _lines(ax, edges(4), [GREY], 0.8)
    _states(ax)
    ax.text(0.93, 0.93, "?", ha="right", va="top", fontsize=14)


def _relaxation(ax: Axes) -> None:
    _lines(ax, edges(4), COLOURS, 0.7)
    _states(ax)


def _search(ax: Axes) -> None:
    for name, height in ((r"$\alpha$", 0.75), ("$w$", 0.25)):
        ax.text(0.5, height, name, ha="center", va="center", fontsize=15)
    style = {"arrowstyle": "-|>", "connectionstyle": "arc3,rad=-0.45", "color": "black"}
    for start, end in (((0.62, 0.74), (0.62, 0.26)), ((0.38, 0.26), (0.38, 0.74))):
        ax.annotate("", end, start, arrowprops=style)


def _genotype(ax: Axes) -> None:
    for number, pair in enumerate(KEPT):
        _lines(ax, [pair], [COLOURS[number * 3 % 4]], 1.8)
    _states(ax)


def _retraining(ax: Axes) -> None:
    sizes = [0.5, 0.5, 0.36, 0.36, 0.22, 0.22]
    for number, size in enumerate(sizes):
        colour = ORANGE if number in (2, 4) else BLUE
        ax.add_patch(Rectangle((0.08 + 0.14 * number, 0.5 - size / 2), 0.1, size, color=colour))


def _text(ax: Axes) -> None:
    words = ("the", "cell", "reads", "…")
    for number, word in enumerate(words):
        x = 0.14 + 0.24 * number
        ax.add_patch(Rectangle((x - 0.07, 0.42), 0.14, 0.22, color=GREEN))
        ax.text(x, 0.26, word, ha="center", va="center", fontsize=8)
        if number < len(words) - 1:
            ax.annotate("", (x + 0.18, 0.53), (x + 0.07, 0.53), arrowprops={"arrowstyle": "-|>"})


def _transfer(ax: Axes) -> None:
    for size, colour in ((0.3, BLUE), (0.7, ORANGE)):
        ax.add_patch(Rectangle((0.1, 0.12), size, size, fill=False, ec=colour, lw=2))
    ax.annotate("", (0.72, 0.74), (0.3, 0.32), arrowprops={"arrowstyle": "-|>"})


STEPS: dict[str, Callable[[Axes], None]] = {
    "space": _space,
    "relaxation": _relaxation,
    "search": _search,
    "genotype": _genotype,
    "retraining": _retraining,
    "text": _text,
    "transfer": _transfer,
}
"""The chapters: a word for each, and what draws its panel."""
