"""Checks of chapter 05's exercises: drop path at a node, cutout's area, the derived cell."""

from collections.abc import Callable

import torch
from torch import Tensor

from darts_lib.data.images import cut_out
from darts_lib.genotype import PUBLISHED
from darts_lib.network import Cell
from darts_lib.search_space import CellPlan
from darts_lib.teaching.exercises.answers import compare


def dropped_node(node: Callable[[Tensor, Tensor, float, bool], Tensor]) -> None:
    """Check `node(first, second, probability, second_is_identity)` on 4,000 images."""
    torch.manual_seed(0)
    first = torch.full((4000, 2, 2, 2), 1.0, dtype=torch.float64)
    second = 10 * first
    found = node(first, second, 0.2, False)
    assert found.shape == first.shape, f"the node's shape is the inputs', not {tuple(found.shape)}."
    assert [float(x.max()) for x in (first, second)] == [1, 10], (
        "an input was changed in place; another edge may still read it."
    )
    kept_first, kept_second = _kept(found)
    torch.testing.assert_close(node(first, second, 0.0, False), first + second)
    for share in (float(kept_first.mean()), float(kept_second.mean())):
        assert abs(share - 0.8) < 0.03, (
            f"{share:.2f} of the images keep an edge; at probability 0.2 it is 0.80."
        )
    both = float((kept_first * kept_second).mean())
    assert abs(both - 0.64) < 0.03, (
        f"both edges are kept together in {both:.2f} of the images, not 0.64: each edge needs a "
        "draw of its own."
    )
    values = node(first, second, 0.2, True).flatten(1)[:, 0]
    assert float(values.min()) > 5, "an identity is never dropped."
    assert abs(float(values.max()) - 11.25) < 1e-6, (
        "an identity is not scaled either; only what can be dropped is divided by 1 - probability."
    )
    share = float((values > 10.5).double().mean())
    assert abs(share - 0.8) < 0.03, (
        f"beside an identity the first edge is kept in {share:.2f} of the images, not in 0.80: it "
        "is dropped as before."
    )


def _kept(found: Tensor) -> tuple[Tensor, Tensor]:
    """Return which images (1 or 0) kept each edge; the edges bring 1 and 10 before any scaling."""
    values = found.flatten(1)
    assert bool((values == values[:, :1]).all()), (
        "pixels of one image differ: draw once an image, shape (batch, 1, 1, 1)."
    )
    seen = values[:, 0]
    largest = float(seen.max())
    assert abs(largest - 11) > 1e-6, "what is kept must be divided by 1 - probability."
    assert abs(largest - 11 / 0.2) > 1e-6, "the probability is that of dropping, not of keeping."
    assert abs(largest - 11 / 0.8) < 1e-6, (
        f"a node that keeps both edges gives {largest:.2f}; it should be 11 / 0.8."
    )
    second = (seen > 5).to(seen)
    return ((seen - second * 12.5) > 0.5).to(seen), second


def cutout_area(area: Callable[[int, int], float]) -> None:
    """Check `area(side, length)`: the mean share of a square image that cutout covers."""
    for side, length in ((32, 16), (8, 4), (7, 3), (8, 8)):
        found, right = float(area(side, length)), _covered(side, length)
        assert abs(found - right) < 1e-9 or abs(found - (length / side) ** 2) > 1e-9, (
            "that is the whole box; near an edge it is clipped, so the mean is smaller."
        )
        assert abs(found - right * side**2) > 1e-9, "give the share, not the number of pixels."
        assert abs(found - right**0.5) > 1e-9, "that is the share of the rows; square it."
        assert abs(found - right) < 1e-9, (
            f"side {side}, length {length}: {found:.4f}, but the mean over all centres is "
            f"{right:.4f}; the box covers centre - length / 2 up to, not with, centre + length / 2."
        )


def _covered(side: int, length: int) -> float:
    """Cut out around every pixel once and return the mean share of covered pixels."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    images = torch.ones(side * side, 1, side, side, dtype=torch.float64)
    return 1 - float(cut_out(images, rows.flatten(), columns.flatten(), length).mean())


def cell_forward(forward: Callable[[Cell, Tensor, Tensor], Tensor]) -> None:
    """Check `forward(cell, before_previous, previous)` against the derived cell's own."""
    torch.manual_seed(0)
    for name, kind in (("DARTS_V2", "normal"), ("DARTS_V2", "reduce"), ("AmoebaNet", "normal")):
        cell = Cell(PUBLISHED[name], CellPlan(kind, 4, 6, 6, False)).double().eval()
        x = torch.randn(2, 2, 6, 8, 8, dtype=torch.float64)
        found, right = forward(cell, x[0], x[1]), cell(x[0], x[1], None)
        assert isinstance(found, Tensor), f"return a tensor, not {type(found).__name__}."
        given = f"{name}, {kind} cell"
        nodes = len(cell.sources) // 2
        assert found.shape[1] != 4 * nodes or len(cell.concat) == nodes, (
            f"{given}: join the states that `concat` names, not all nodes."
        )
        assert found.shape == right.shape, (
            f"{given}: shape {tuple(found.shape)}, not {tuple(right.shape)}: a node is a sum, the "
            "output joins the channels of the nodes, inputs left out."
        )
        swapped = cell(x[1], x[0], None)
        mistakes = {swapped: "state 0 is the older input, before_previous; state 1 is previous."}
        otherwise = (
            f"{given}: node n adds edges 2n and 2n + 1, each applied to the state in `sources`."
        )
        compare(found, right, mistakes, otherwise)
