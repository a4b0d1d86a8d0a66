"""The checks of chapter 02: its folded solutions pass, typical wrong answers get a fitting hint."""

from collections.abc import Callable, Sequence

import pytest
import torch
from chapter_solutions import solutions
from torch import Tensor, nn

from darts_lib.teaching.exercises import relaxation as checks

CHAPTER = "02_continuous_relaxation"
ANSWERS = {
    "count": checks.mixed_operation_count,
    "soften": checks.weights_at_temperature,
    "entropy": checks.edge_entropy,
    "node": checks.node_of_a_cell,
}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_folded_solution_passes(name: str) -> None:
    ANSWERS[name](solutions(CHAPTER, torch=torch)[name])


@pytest.mark.parametrize(
    ("count", "hint"),
    [
        (lambda nodes, layers: 8 * layers * sum(range(2, nodes + 2)), "candidate operations"),
        (lambda nodes, layers: sum(range(2, nodes + 2)), "that is one cell"),
        (lambda nodes, layers: layers * sum(range(nodes)), "hears both inputs"),
        (lambda nodes, layers: 14 * layers, "hears both inputs"),
    ],
)
def test_wrong_counts_get_a_hint(count: Callable[[int, int], int], hint: str) -> None:
    with pytest.raises(AssertionError, match=hint):
        checks.mixed_operation_count(count)


@pytest.mark.parametrize(
    ("soften", "hint"),
    [
        (lambda alphas, t: torch.softmax(alphas / t, dim=0), "over the edges"),
        (lambda alphas, t: torch.softmax(alphas * t, dim=-1), "do not multiply"),
        (lambda alphas, t: torch.softmax(alphas, dim=-1) / t, "before the softmax"),
        (lambda alphas, t: torch.softmax(alphas, dim=-1), "not used"),
        (lambda alphas, t: torch.softmax(2 * alphas, dim=-1), "not used"),
        (lambda alphas, t: torch.softmax(alphas / min(t, 1), dim=-1), "at temperature 2"),
        (lambda alphas, t: torch.softmax(alphas[0] / t, dim=-1), "own shape"),
    ],
)
def test_wrong_temperatures_get_a_hint(
    soften: Callable[[Tensor, float], Tensor], hint: str
) -> None:
    with pytest.raises(AssertionError, match=hint):
        checks.weights_at_temperature(soften)


def _plain(alphas: Tensor) -> Tensor:
    weights = torch.softmax(alphas, dim=-1)
    return -(weights * weights.log()).sum(dim=-1)


@pytest.mark.parametrize(
    ("entropy", "hint"),
    [
        (_plain, "nan"),
        (lambda alphas: -_plain(alphas), "sign"),
        (lambda alphas: _plain(alphas) / torch.log(torch.tensor(2.0)), "bits"),
        (lambda alphas: _plain(alphas).mean(), "one value for each"),
        (lambda alphas: -(alphas * alphas.log()).sum(dim=-1), "softmax of the alphas first"),
    ],
)
def test_wrong_entropies_get_a_hint(entropy: Callable[[Tensor], Tensor], hint: str) -> None:
    with pytest.raises(AssertionError, match=hint):
        checks.edge_entropy(entropy)


Candidates = Sequence[Sequence[nn.Module]]


def _node(weights: Callable[[Tensor], Tensor]) -> checks.Node:
    def node(states: Sequence[Tensor], alphas: Tensor, operations: Candidates) -> Tensor:
        terms = [
            weight * operation(state)
            for state, row, candidates in zip(states, weights(alphas), operations, strict=True)
            for weight, operation in zip(row, candidates, strict=True)
        ]
        return torch.stack(terms).sum(dim=0)

    return node


@pytest.mark.parametrize(
    ("node", "hint"),
    [
        (_node(lambda alphas: torch.softmax(alphas, dim=0)), "dim=0"),
        (_node(lambda alphas: torch.softmax(alphas.flatten(), 0).view_as(alphas)), "all edges"),
        (_node(lambda alphas: alphas), "logits"),
        (_node(lambda alphas: torch.softmax(alphas, dim=-1) / 2), "mean of the edges"),
        (_node(lambda alphas: torch.softmax(alphas, dim=-1)[:1].repeat(2, 1)), "weighted sum"),
        (lambda states, alphas, operations: torch.cat(list(states), dim=1), "do not join"),
    ],
)
def test_wrong_nodes_get_a_hint(node: checks.Node, hint: str) -> None:
    with pytest.raises(AssertionError, match=hint):
        checks.node_of_a_cell(node)
