"""Figures as tests read them: where the parts lie, that none is clipped and none hides another."""

from collections.abc import Iterable
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

FRAMED = ("operation", "activation", "input", "output")


def named(parts: Iterable[Any], kind: str) -> list[Any]:
    """Return the texts or patches of one kind: their names begin with it."""
    return [part for part in parts if str(part.get_gid()).startswith(kind)]


def boxes(ax: Axes) -> list[Bbox]:
    """Return where the names, the nodes and the ends of a drawn cell lie, in pixels."""
    framed = [text.get_bbox_patch() or text for text in ax.texts if text.get_gid() in FRAMED]
    circles = [line for line in ax.lines if line.get_marker() == "o"]
    radius = [line.get_markersize() / 2 * ax.figure.dpi / 72 for line in circles]
    centres = [ax.transData.transform(line.get_xydata()[0]) for line in circles]
    around = [Bbox([c - r, c + r]) for c, r in zip(centres, radius, strict=True)]
    return [part.get_window_extent() for part in framed] + around


def assert_inside(figure: Figure, shown: Iterable[Bbox]) -> None:
    for box in shown:
        assert 0 <= box.x0 < box.x1 <= figure.bbox.x1, box
        assert 0 <= box.y0 < box.y1 <= figure.bbox.y1, box


def assert_readable(figure: Figure) -> None:
    """Every part of the cells is inside the figure, and none of a cell is over another.

    A wire goes right and meets its source and its own name, one to the output its source alone.
    """
    figure.draw_without_rendering()
    for ax in figure.axes:
        drawn = boxes(ax)
        assert_inside(figure, drawn)
        assert_inside(figure, [ax.title.get_window_extent()] if ax.get_title() else [])
        for a, b in combinations(drawn, 2):
            # A shared hairline is not an overlap: half a pixel is let pass.
            wide = min(a.x1, b.x1) - max(a.x0, b.x0)
            assert min(wide, min(a.y1, b.y1) - max(a.y0, b.y0)) < 0.5, (a, b)
        for wire in named(ax.patches, "wire"):
            path = ax.transData.transform_path(wire.get_path())
            met = sum(path.intersects_bbox(box, filled=False) for box in drawn)
            assert met <= (1 if "output" in wire.get_gid() else 2), wire.get_gid()
            assert (np.diff(path.vertices[:, 0]) >= 0).all(), wire.get_gid()
