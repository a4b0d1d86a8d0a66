"""Chapter 01's exercises: each folded solution passes, each usual mistake gets its hint."""

import re
from collections.abc import Callable

import pytest
import torch
from chapter_solutions import folded_solutions
from torch import Tensor, nn
from torch.nn import functional as F

from darts_lib.operations import batch_norm
from darts_lib.teaching.exercises import search_space as checks

CHAPTER = "01_search_space"
CHECKS = [checks.separable_parameters, checks.first_row, checks.cells, checks.own_primitive]


def test_every_check_has_a_solution() -> None:
    assert len(folded_solutions(CHAPTER)) == len(CHECKS)


@pytest.mark.parametrize("number", range(len(CHECKS)))
def test_the_solution_passes(number: int) -> None:
    namespace: dict[str, Callable[..., object]] = {}
    exec(folded_solutions(CHAPTER)[number], namespace)
    CHECKS[number](namespace["answer"])


# --- wrong answers ------------------------------------------------------------------------------


class Own(nn.Module):
    """A 3x3 pool as a primitive, with one thing that can be made wrong."""

    def __init__(self, channels: int, stride: int, affine: bool) -> None:
        super().__init__()
        self.stride = stride
        self.norm = batch_norm(channels, affine)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.norm(x), 3, self.stride, padding=1)


class WithoutPadding(Own):
    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.norm(x), 3, self.stride)


class RoundsDown(Own):
    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.norm(x), self.stride)


class InPlace(Own):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x.relu_()
        return super().forward(x)


class Detached(Own):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()


class DetachedInside(Own):
    """Weights of its own get a gradient, its input does not."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.detach()) + self.bias

    def __init__(self, channels: int, stride: int, affine: bool) -> None:
        super().__init__(channels, stride, affine)
        self.bias = nn.Parameter(torch.zeros(()))


class KeepsStatistics(Own):
    def __init__(self, channels: int, stride: int, affine: bool) -> None:
        super().__init__(channels, stride, affine)
        self.norm = nn.BatchNorm2d(channels, affine=affine)


def ignores_affine(channels: int, stride: int, affine: bool) -> nn.Module:
    return Own(channels, stride, True)


WRONG: list[tuple[Callable[..., None], object, str]] = [
    (checks.separable_parameters, lambda k, c: k**2 * c + c**2, "stacks two"),
    (checks.separable_parameters, lambda k, c: 2 * k**2 * c**2, "reads one channel"),
    (checks.separable_parameters, lambda k, c: k**2 * c**2, "ordinary convolution"),
    (checks.separable_parameters, lambda k, c: 2 * k**2 * c, "pointwise"),
    (checks.separable_parameters, lambda k, c: 2 * (k**2 * c + c**2) + 4 * c, "normalisation"),
    (checks.separable_parameters, lambda k, c: 2 * k * (c + c**2), "add up"),
    (checks.separable_parameters, 800, "is a function"),
    (checks.separable_parameters, lambda k: k, "TypeError"),
    (checks.separable_parameters, lambda k, c: None, "whole number"),
    (checks.first_row, lambda t: sum(range(t)), "inputs, states 0 and 1"),
    (checks.first_row, lambda t: sum(range(2, t + 1)), "next state starts"),
    (checks.first_row, lambda t: sum(range(2, t + 2)), "first node is state 2"),
    (checks.first_row, lambda t: 2 * (t - 2), "2, then 3, then 4"),
    (checks.first_row, {2: 0, 3: 2, 4: 5, 5: 9}, "is a function"),
    (checks.cells, lambda n, o: 2**n * right_cells(n, o), "has no order"),
    (checks.cells, lambda n, o: right_cells(n, 1) * o**n, "both of a node's edges"),
    (checks.cells, lambda n, o: right_cells(n, 1), "operations are missing"),
    (checks.cells, lambda n, o: right_cells(n, 7), "use the argument"),
    (checks.cells, lambda n, o: o ** sum(range(2, n + 2)), "keeps only two"),
    (checks.own_primitive, nn.Identity(), "Identity"),
    (checks.own_primitive, lambda c, s, a: torch.relu, "nn.Module"),
    (checks.own_primitive, lambda c, s, a: nn.Identity(), "look at padding, at stride"),
    (checks.own_primitive, lambda c, s, a: nn.Conv2d(3, c, 1, s), "RuntimeError"),
    (checks.own_primitive, WithoutPadding, "look at padding"),
    (checks.own_primitive, RoundsDown, "odd sizes"),
    (checks.own_primitive, InPlace, "in place"),
    (checks.own_primitive, Detached, "no gradient"),
    (checks.own_primitive, DetachedInside, "to its input"),
    (checks.own_primitive, KeepsStatistics, "no running statistics"),
    (checks.own_primitive, ignores_affine, "affine=False was asked for"),
]


def right_cells(nodes: int, operations: int) -> int:
    """Return the true number by its definition, one node after the other."""
    number = 1
    for before in range(2, nodes + 2):
        number *= before * (before - 1) // 2 * operations**2
    return number


@pytest.mark.parametrize(("test", "attempt", "hint"), WRONG)
def test_a_wrong_answer_gets_its_hint(
    test: Callable[..., None], attempt: object, hint: str
) -> None:
    with pytest.raises(AssertionError, match=re.escape(hint)):
        test(attempt)


def test_a_right_primitive_of_another_kind_passes() -> None:
    checks.own_primitive(Own)
