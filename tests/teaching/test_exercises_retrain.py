"""The checks of chapter 05: its folded solutions pass, typical wrong answers get a fitting hint."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from chapter_solutions import solutions
from torch import Tensor

from darts_lib.teaching.exercises import retrain as checks

CHAPTER = "05_retrain"
ANSWERS: dict[str, Callable[[Any], None]] = {
    "node": checks.dropped_node,
    "area": checks.cutout_area,
    "count_head": checks.auxiliary_parameters,
}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_folded_solution_passes(name: str) -> None:
    ANSWERS[name](solutions(CHAPTER, torch=torch)[name])


def _mask(x: Tensor, probability: float, *shape: int) -> Tensor:
    return torch.empty(shape or (len(x), 1, 1, 1), dtype=x.dtype).bernoulli_(1 - probability)


def _drop(x: Tensor, p: float) -> Tensor:
    return x * _mask(x, p) / (1 - p)


def _in_place(first: Tensor, second: Tensor, p: float, identity: bool) -> Tensor:
    first.mul_(_mask(first, p) / (1 - p))
    return first + (second if identity else _drop(second, p))


@pytest.mark.parametrize(
    ("node", "hint"),
    [
        (lambda a, b, p, i: (a + b) * _mask(a, p) / (1 - p), "a draw of its own"),
        (lambda a, b, p, i: _drop(a, p) + _drop(b, p), "identity is never dropped"),
        (lambda a, b, p, i: _drop(a, p) + (b / (1 - p) if i else _drop(b, p)), "not scaled"),
        (lambda a, b, p, i: a * _mask(a, p) + b * _mask(b, p), "must be divided"),
        (lambda a, b, p, i: a * _mask(a, p, *a.shape) / (1 - p) + _drop(b, p), "once an image"),
        (lambda a, b, p, i: _drop(a, 1 - p) + _drop(b, 1 - p), "of dropping"),
        (lambda a, b, p, i: (a + b) / (1 - p), "keep an edge"),
        (lambda a, b, p, i: _drop(a, p), "should be 11"),
        (lambda a, b, p, i: _drop(a, p).flatten(1), "shape is the inputs'"),
        (
            lambda a, b, p, i: (a / (1 - p) if i else _drop(a, p)) + (b if i else _drop(b, p)),
            "beside an identity",
        ),
        (_in_place, "changed in place"),
    ],
)
def test_wrong_nodes_get_a_hint(node: checks.Node, hint: str) -> None:
    with pytest.raises(AssertionError, match=hint):
        checks.dropped_node(node)


def _rows(side: int, length: int) -> float:
    area: float = solutions(CHAPTER, torch=torch)["area"](side, length)
    return area**0.5


@pytest.mark.parametrize(
    ("area", "hint"),
    [
        (lambda side, length: (length / side) ** 2, "clipped"),
        (lambda side, length: (_rows(side, length) * side) ** 2, "not the number of pixels"),
        (_rows, "square it"),
        (lambda side, length: (_rows(side, length + 1)) ** 2, "up to, not with"),
    ],
)
def test_wrong_areas_get_a_hint(area: Callable[[int, int], float], hint: str) -> None:
    with pytest.raises(AssertionError, match=hint):
        checks.cutout_area(area)


def test_the_covered_area_of_the_paper() -> None:
    assert solutions(CHAPTER, torch=torch)["area"](32, 16) == pytest.approx(0.191, abs=5e-4)


def _head(c: int, k: int, norms: int = 2, bias: int = 1, side: int = 4, conv: int = 0) -> int:
    return 128 * c + 768 * 128 * side + (norms + conv) * (128 + 768) + 768 * k + (k if bias else 0)


@pytest.mark.parametrize(
    ("count", "hint"),
    [
        (lambda c, k: _head(c, k, norms=0), "both normalisations"),
        (lambda c, k: _head(c, k, norms=1), "two parameters"),
        (lambda c, k: _head(c, k, bias=0), "has a bias"),
        (lambda c, k: _head(c, k, side=1), "2x2"),
        (lambda c, k: _head(c, k, conv=1), "have no bias"),
        (lambda c, k: 476_426, "432 channels"),
        (lambda c, k: 0, "576 channels"),
    ],
)
def test_wrong_counts_get_a_hint(count: Callable[[int, int], int], hint: str) -> None:
    with pytest.raises(AssertionError, match=hint):
        checks.auxiliary_parameters(count)
