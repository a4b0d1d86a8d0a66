"""The checks of chapter 04: its folded solutions pass, typical wrong answers get a fitting hint."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from chapter_solutions import solutions
from torch import Tensor

from darts_lib.search_space import PRIMITIVES
from darts_lib.teaching.exercises import genotype as checks

CHAPTER = "04_genotype"
ANSWERS: dict[str, Callable[[Any], None]] = {
    "strength_of": checks.edge_strength,
    "choose": checks.node_choice,
    "verdicts": checks.suspects,
}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_folded_solution_passes(name: str) -> None:
    ANSWERS[name](solutions(CHAPTER, torch=torch)[name])


def _others(names: Sequence[str]) -> list[int]:
    return [column for column, name in enumerate(names) if name != "none"]


@pytest.mark.parametrize(
    ("strength", "hint"),
    [
        (lambda a, names: a[:, _others(names)].amax(dim=-1), "raw alphas"),
        (lambda a, names: torch.softmax(a, 0)[:, _others(names)].amax(dim=-1), "over the edges"),
        (lambda a, names: torch.softmax(a, -1)[:, _others(names)].sum(dim=-1), "not the sum"),
        (lambda a, names: torch.softmax(a, -1).amax(dim=-1), "none may not win"),
        (lambda a, names: torch.softmax(a[:, _others(names)], -1).amax(dim=-1), "take its mass"),
        (lambda a, names: torch.softmax(a, -1)[:, 1:].amax(dim=-1), "by its name"),
        (lambda a, names: torch.softmax(a, -1).amax(), "for each edge"),
        (lambda a, names: torch.softmax(a, -1).amax(dim=-1).tolist(), "return a tensor"),
        (lambda a, names: torch.softmax(a, -1)[:, 1:].amin(dim=-1), "should be"),
    ],
)
def test_wrong_strengths_get_a_hint(
    strength: Callable[[Tensor, Sequence[str]], Tensor], hint: str
) -> None:
    with pytest.raises(AssertionError, match=hint):
        checks.edge_strength(strength)


def _right(alphas: Tensor, names: Sequence[str]) -> list[tuple[str, int]]:
    chosen: list[tuple[str, int]] = solutions(CHAPTER, torch=torch)["choose"](alphas, names)
    return chosen


def _last_of_equals(alphas: Tensor, names: Sequence[str]) -> list[tuple[str, int]]:
    weights = torch.softmax(alphas, dim=-1)[:, 1:]
    best = sorted(range(len(weights)), key=lambda row: (-float(weights[row].max()), -row))[:2]
    return [(names[1 + int(weights[row].argmax())], row) for row in best]


@pytest.mark.parametrize(
    ("choose", "hint"),
    [
        (checks.SUSPECTS["A"], "sum of their weights"),
        (checks.SUSPECTS["B"], "raw alphas"),
        (checks.SUSPECTS["C"], "two edges first|lower index"),
        (_last_of_equals, "lower index"),
        (lambda a, names: sorted(_right(a, names), key=lambda pair: pair[1]), "stronger edge"),
        (lambda a, names: _right(a, names)[:1], "two edges"),
        (lambda a, names: [("none", 0), ("none", 1)], "none may not"),
    ],
)
def test_wrong_choices_get_a_hint(choose: checks.Rule, hint: str) -> None:
    with pytest.raises(AssertionError, match=hint):
        checks.node_choice(choose)


def test_a_source_taken_twice_gets_its_own_hint() -> None:
    def choose(alphas: Tensor, names: Sequence[str]) -> Sequence[tuple[str, int]]:
        rule = _right if float(alphas.abs().max()) == 0 else checks.SUSPECTS["C"]
        return rule(alphas, names)

    with pytest.raises(AssertionError, match="two edges first"):
        checks.node_choice(choose)


@pytest.mark.parametrize(
    ("verdicts", "hint"),
    [
        ({"A": "raw", "B": "sum", "C": "pairs"}, "A: adding 10"),
        ({"A": "sum", "B": "pairs", "C": "raw"}, "B: when one edge"),
        ({"A": "sum", "B": "sum", "C": "pairs"}, "B: an edge with one large"),
        ({"A": "sum", "B": "raw"}, "each of A, B and C"),
        ({"A": "sum", "B": "raw", "C": "max"}, "C: 'max' is none of"),
        ("raw", "give a dict"),
    ],
)
def test_wrong_verdicts_get_a_hint(verdicts: dict[str, str], hint: str) -> None:
    with pytest.raises(AssertionError, match=hint):
        checks.suspects(verdicts)


def test_what_the_hints_say_of_the_suspects_is_true() -> None:
    """The refutations: A and C ignore a constant, B and C keep one large weight, A and B two."""
    generator = torch.Generator().manual_seed(1)
    table = 2 * torch.randn(4, len(PRIMITIVES), generator=generator, dtype=torch.float64)
    for row in range(4):
        shifted = table.clone()
        shifted[row] += 10
        for name in "AC":
            rule = checks.SUSPECTS[name]
            assert rule(shifted, PRIMITIVES) == rule(table, PRIMITIVES)
    names = ("none", "sep_conv_3x3", "max_pool_3x3")
    shares = torch.tensor([[0.4, 0.5, 0.1], [0.3, 0.35, 0.35], [0.05, 0.9, 0.05]]).log()
    both_large = torch.tensor([[0.0, 9.0, 9.0], [9.0, 8.0, 0.0]], dtype=torch.float64)
    sources = {
        name: [{source for _, source in rule(x, names)} for x in (shares, both_large)]
        for name, rule in checks.SUSPECTS.items()
    }
    assert sources == {"A": [{1, 2}, {0, 1}], "B": [{0, 2}, {0, 1}], "C": [{0, 2}, {0}]}
