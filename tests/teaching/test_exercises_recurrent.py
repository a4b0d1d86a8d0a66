"""The checks of chapter 06: its folded solutions pass, typical wrong answers get a fitting hint."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from chapter_solutions import solutions
from torch import Tensor

from darts_lib.recurrent.search_space import ACTIVATIONS, PRIMITIVES
from darts_lib.teaching.exercises import recurrent as checks

CHAPTER = "06_recurrent_cells"
ANSWERS: dict[str, Callable[[Any], None]] = {
    "choose": checks.node_choice,
    "perplexity_of": checks.text_perplexity,
    "count_weights": checks.model_parameters,
}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_folded_solution_passes(name: str) -> None:
    ANSWERS[name](solutions(CHAPTER, torch=torch, math=math, PRIMITIVES=PRIMITIVES)[name])


def _best(scores: Tensor, by: Tensor, names: tuple[str, ...] = ACTIVATIONS) -> tuple[str, int]:
    source = int(by.argmax())
    return names[int(scores[source].argmax())], source


def _keeps_none(logits: Tensor) -> tuple[str, int]:
    weights = logits.softmax(-1)
    return _best(weights, weights.amax(1), PRIMITIVES)


def _drops_none_first(logits: Tensor) -> tuple[str, int]:
    weights = logits[:, 1:].softmax(-1)
    return _best(weights, weights.amax(1))


def _by_sum(logits: Tensor) -> tuple[str, int]:
    weights = logits.softmax(-1)[:, 1:]
    return _best(weights, weights.sum(1))


def _by_logits(logits: Tensor) -> tuple[str, int]:
    best = logits[:, 1:].amax(1) - 10 * (logits[:, 0] > 5)
    return _best(logits[:, 1:], best)


def _next_name(logits: Tensor) -> tuple[str, int]:
    weights = logits.softmax(-1)[:, 1:]
    name, source = _best(weights, weights.amax(1))
    return ACTIVATIONS[ACTIVATIONS.index(name) - 1], source


@pytest.mark.parametrize(
    ("choose", "hint"),
    [
        (_keeps_none, "no cell contains it"),
        (_drops_none_first, "after the softmax, not before"),
        (_by_sum, "not by the sum"),
        (_by_logits, "cannot be compared"),
        (_next_name, "the library chooses"),
        (lambda logits: 0, "return a pair"),
        (lambda logits: ("gelu", 0), "is no activation"),
    ],
)
def test_wrong_choices_get_a_hint(choose: checks.Choose, hint: str) -> None:
    with pytest.raises(AssertionError, match=hint):
        checks.node_choice(choose)


def _mean(losses: Any, words: Any) -> float:
    total = sum(loss * count for loss, count in zip(losses, words, strict=True))
    return float(total / sum(words))


def test_a_perplexity_in_float32_is_right_too() -> None:
    def perplexity(losses: list[float], words: list[int]) -> float:
        total = (torch.tensor(losses) * torch.tensor(words)).sum() / sum(words)
        return float(torch.exp(total))

    checks.text_perplexity(perplexity)


@pytest.mark.parametrize(
    ("perplexity", "hint"),
    [
        (lambda x, n: sum(map(math.exp, x)) / len(x), "mean of perplexities"),
        (lambda x, n: _mean(list(map(math.exp, x)), n), "mean of perplexities"),
        (lambda x, n: math.exp(sum(x) / len(x)), "weigh each loss"),
        (lambda x, n: 2 ** _mean(x, n), "in nats"),
        (_mean, "exp is missing"),
        (lambda x, n: 1.0, "losses 1 and 4"),
        (lambda x, n: math.exp(1.75), "three segments"),
    ],
)
def test_wrong_perplexities_get_a_hint(perplexity: checks.Perplexity, hint: str) -> None:
    with pytest.raises(AssertionError, match=hint):
        checks.text_perplexity(perplexity)


@pytest.mark.parametrize(
    ("count", "hint"),
    [
        (lambda d, v, n: 2 * v * d + v + 4 * d * d + 2 * n * d * d, "share one matrix"),
        (lambda d, v, n: v * d + 4 * d * d + 2 * n * d * d, "has a bias"),
        (lambda d, v, n: v * d + v + 2 * d * d + 2 * n * d * d, "2 d rows"),
        (lambda d, v, n: v * d + v + 2 * d * d + n * d * d, "2 d columns"),
        (lambda d, v, n: 22_960_000, "33,278 words"),
        (lambda d, v, n: 0, "it is 22,960,000"),
    ],
)
def test_wrong_counts_get_a_hint(count: Callable[[int, int, int], int], hint: str) -> None:
    with pytest.raises(AssertionError, match=hint):
        checks.model_parameters(count)
