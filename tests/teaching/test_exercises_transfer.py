"""The checks of chapter 07: its folded solutions pass, typical wrong answers get a fitting hint."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from chapter_solutions import solutions

from darts_lib.cost.complexity import multiply_adds
from darts_lib.genotype import Genotype
from darts_lib.imagenet_network import ImageNetNetwork
from darts_lib.search_space import reductions
from darts_lib.teaching.exercises import transfer as checks

CHAPTER = "07_transfer"
AT_HAND = {
    "torch": torch,
    "reductions": reductions,
    "multiply_adds": multiply_adds,
    "ImageNetNetwork": ImageNetNetwork,
}
ANSWERS: dict[str, Callable[[Any], None]] = {
    "target": checks.smoothed_target,
    "sides": checks.cell_sides,
    "widest": checks.widest_within,
}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_folded_solution_passes(name: str) -> None:
    ANSWERS[name](solutions(CHAPTER, **AT_HAND)[name])


def _target(label: int, classes: int, top: float, rest: float) -> list[float]:
    return [top if each == label else rest for each in range(classes)]


@pytest.mark.parametrize(
    ("target", "hint"),
    [
        (lambda y, k, e: _target(y, k, 1 - e, e / (k - 1)), "the right one included"),
        (lambda y, k, e: _target(y, k, 1 - e, e / k), r"add up to 0\.980"),
        (lambda y, k, e: _target(y, k, 1.0, e / k), r"add up to 1\.080"),
        (lambda y, k, e: _target(y, k, 1.0, 0.0), r"share is 0\.920, not 1\.000"),
        (lambda y, k, e: _target(y - 1, k, 1 - e + e / k, e / k), "that of the label, 2"),
        (lambda y, k, e: [1 - e + e / k], "each of the 5 classes, not 1"),
    ],
)
def test_wrong_targets_get_a_hint(target: checks.Target, hint: str) -> None:
    with pytest.raises(AssertionError, match=hint):
        checks.smoothed_target(target)


def _sides(
    pixels: int, layers: int, halvings: int = 3, late: int = 0, up: bool = True
) -> list[int]:
    def halve(side: int) -> int:
        return -(-side // 2) if up else side // 2

    side, found = pixels, []
    for _ in range(halvings):
        side = halve(side)
    for layer in range(layers):
        if layer - late in (layers // 3, 2 * layers // 3):
            side = halve(side)
        found.append(side)
    return found


@pytest.mark.parametrize(
    ("sides", "hint"),
    [
        (lambda p, n: _sides(p, n, halvings=2), "puts out 28, not 56: three halvings"),
        (lambda p, n: _sides(p, n, up=False), "70 pixels and 5 cells: .* rounded up"),
        (lambda p, n: _sides(p, n, late=1), "cell 4 puts out 14, not 28"),
        (lambda p, n: _sides(p, n, late=-1), "cell 3 puts out 28, not 14"),
        (lambda p, n: [28] * 4 + [14] * 5 + [7] * 5, "96 pixels and 8 cells: one side a cell"),
        (lambda p, n: [-(-p // 4), *_sides(p, n)[:-1]], "what each cell reads"),
        (lambda p, n: _sides(p, n)[:-1], "14 in all, not 13"),
    ],
)
def test_wrong_sides_get_a_hint(sides: checks.Sides, hint: str) -> None:
    with pytest.raises(AssertionError, match=hint):
        checks.cell_sides(sides)


def _widest(cell: Genotype, budget: int) -> int:
    found: int = solutions(CHAPTER, **AT_HAND)["widest"](cell, budget)
    return found


@pytest.mark.parametrize(
    ("widest", "hint"),
    [
        (lambda cell, budget: 48, "DARTS_V2 at 50 channels has .* still within"),
        (lambda cell, budget: 50, "NASNet at 50 channels has .* more than 600,000,000"),
        (lambda cell, budget: _widest(cell, 600_000_000), "DARTS_V2 at .* more than 300,000,000"),
        (lambda cell, budget: 51, "number is even"),
        (lambda cell, budget: 0, "number is even"),
        (lambda cell, budget: 50.0, "is an int, not 50.0"),
        (lambda cell, budget: 573_472_800, "not multiply-adds"),
    ],
)
def test_wrong_widths_get_a_hint(widest: checks.Widest, hint: str) -> None:
    with pytest.raises(AssertionError, match=hint):
        checks.widest_within(widest)
