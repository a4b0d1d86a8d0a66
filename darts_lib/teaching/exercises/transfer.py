"""Checks of chapter 07's exercises: smoothed targets, sizes through the network, the budget."""

import functools
from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from darts_lib.cost.complexity import multiply_adds
from darts_lib.genotype import PUBLISHED, Genotype
from darts_lib.network import ImageNetNetwork


def smoothed_target(target: Callable[[int, int, float], Sequence[float]]) -> None:
    """Check `target(label, classes, smoothing)`, the shares that label smoothing aims at."""
    for label, classes, smoothing in ((2, 5, 0.1), (0, 3, 0.3), (1, 4, 0.0)):
        found = torch.tensor([float(share) for share in target(label, classes, smoothing)])
        assert len(found) == classes, (
            f"the target has a share for each of the {classes} classes, not {len(found)}."
        )
        assert int(found.argmax()) == label, f"the largest share is that of the label, {label}."
        # What torch's own loss aims at: it is linear in the target, so its gradient tells.
        logits = torch.zeros(1, classes, requires_grad=True)
        loss = F.cross_entropy(logits, torch.tensor([label]), label_smoothing=smoothing)
        right = 1 / classes - torch.autograd.grad(loss, logits)[0][0]
        others, total = torch.full((classes,), smoothing / (classes - 1)), float(found.sum())
        others[label] = 1 - smoothing
        assert smoothing == 0 or not torch.allclose(found, others), (
            "the smoothing is shared by all classes, the right one included: divide it by the "
            "number of classes."
        )
        assert abs(total - 1) < 1e-5, f"the shares add up to {total:.3f}, not 1."
        assert torch.allclose(found, right, atol=1e-5), (
            f"label {label} of {classes} classes at {smoothing}: the label's share is "
            f"{float(right[label]):.3f}, not {float(found[label]):.3f}."
        )


def cell_sides(sides: Callable[[int, int], Sequence[int]]) -> None:
    """Check `sides(pixels, layers)`: the side of the map that each cell puts out."""
    for pixels, layers in ((224, 14), (96, 8), (70, 5), (100, 6)):
        found, right = [int(side) for side in sides(pixels, layers)], _measured(pixels, layers)
        case = f"{pixels} pixels and {layers} cells"
        assert len(found) == layers, f"{case}: one side a cell, {layers} in all, not {len(found)}."
        assert found != [-(-pixels // 4), *right[:-1]], (
            "that is what each cell reads; its output is asked for, and the first cell works on an "
            "eighth of the image."
        )
        assert found[0] == right[0], (
            f"{case}: the first cell puts out {right[0]}, not {found[0]}: three halvings before "
            "it, each rounded up."
        )
        for i, (mine, theirs) in enumerate(zip(found, right, strict=True)):
            assert mine == theirs, (
                f"{case}: cell {i} puts out {theirs}, not {mine}. The cells at one third and two "
                "thirds of the depth, counted from 0, halve and round up."
            )


def _measured(pixels: int, layers: int) -> list[int]:
    """Return the sides in a forward pass through a narrow network, on shapes alone."""
    sides: list[int] = []
    with torch.device("meta"):
        net = ImageNetNetwork(PUBLISHED["DARTS_V2"], 4, layers, 2)
        for cell in net.cells:
            cell.register_forward_hook(lambda _, __, output: sides.append(output.shape[-1]))
        net(torch.zeros(2, 3, pixels, pixels))
    return sides


def widest_within(widest: Callable[[Genotype, int], int]) -> None:
    """Check `widest(genotype, budget)`: the most channels, even, within so many multiply-adds."""
    for name, millions in (("DARTS_V2", 600), ("NASNet", 600), ("DARTS_V2", 300)):
        budget = millions * 1_000_000
        found = widest(PUBLISHED[name], budget)
        assert isinstance(found, int), f"a number of channels is an int, not {found!r}."
        assert found in range(2, found + 1, 2), (
            f"{found} channels cannot be: the stem has half of them, so the number is even."
        )
        assert found <= 1000, f"{found} channels: give channels, not multiply-adds."
        cost, more = _cost(name, found), _cost(name, found + 2)
        assert cost <= budget, (
            f"{name} at {found} channels has {cost:,} multiply-adds, more than {budget:,}."
        )
        assert more > budget, (
            f"{name} at {found + 2} channels has {more:,} multiply-adds, still within {budget:,}."
        )


@functools.cache
def _cost(name: str, channels: int) -> int:
    with torch.device("meta"):
        return multiply_adds(ImageNetNetwork(PUBLISHED[name], channels), (3, 224, 224))
