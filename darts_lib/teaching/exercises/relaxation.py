"""Checks of chapter 02's exercises: counting mixed operations, temperature, entropy, a node."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from darts_lib.relaxation import MixedOp, Supernet
from darts_lib.teaching.exercises.answers import close, compare, has_shape

ROWS = torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.0, 0.0, 3.0, 0.0]], dtype=torch.float64)
"""Logits of two edges that differ from each other along both axes."""


def mixed_operation_count(count: Callable[[int, int], int]) -> None:
    """Check `count(nodes, layers)`: how many mixed operations a supernet holds."""
    for nodes, layers in ((4, 8), (1, 1), (2, 3), (5, 4)):
        net = Supernet(2, layers, nodes, primitives=("none", "skip_connect"))
        right = sum(isinstance(module, MixedOp) for module in net.modules())
        found, cell = count(nodes, layers), right / layers
        mistakes = {
            8 * right: "you counted the candidate operations; a mixed operation is all of them on "
            "one edge.",
            cell: "that is one cell; every cell of the supernet has mixed operations of its own.",
        }
        otherwise = (
            f"{nodes} nodes and {layers} layers have {right} mixed operations, not {found}: "
            "a node hears both inputs of its cell and all nodes before it."
        )
        compare(found, right, mistakes, otherwise)


def weights_at_temperature(soften: Callable[[Tensor, float], Tensor]) -> None:
    """Check `soften(alphas, temperature)`: each row's softmax of alphas over the temperature."""
    sharper, softer = soften(ROWS, 0.5), soften(ROWS, 2.0)
    right, hot = torch.softmax(ROWS / 0.5, dim=-1), torch.softmax(ROWS / 2, dim=-1)
    assert has_shape(sharper, right.shape), "return weights of the alphas' own shape, (2, 4)."
    down, after = torch.softmax(ROWS / 0.5, dim=0), torch.softmax(ROWS, dim=-1) / 0.5
    mistakes = {
        down: "the softmax runs down the columns, over the edges; use dim=-1, over the primitives.",
        hot: "a low temperature must sharpen the choice; divide the alphas by it, do not multiply.",
        after: "the weights of an edge must add up to one; divide before the softmax, not after.",
    }
    assert not close(sharper, softer), "the temperature is not used."
    first = "the first row should be"
    compare(sharper, right, mistakes, f"at temperature 0.5 {first} {_written(right[0])}.")
    compare(softer, hot, {}, f"at temperature 2 {first} {_written(hot[0])}.")


def edge_entropy(entropy: Callable[[Tensor], Tensor]) -> None:
    """Check `entropy(alphas)`: nats for every edge; an edge that has decided has exactly zero."""
    found, weights = entropy(ROWS), torch.softmax(ROWS, dim=-1)
    right = -(weights * weights.log()).sum(dim=-1)
    bits = right / math.log(2)
    assert has_shape(found, right.shape), (
        "return one value for each of the 2 edges: sum over the primitives only."
    )
    mistakes = {
        -right: "the sign is wrong: an entropy is never negative.",
        bits: "these are bits; use the natural logarithm, so that eight equal weights give ln 8.",
    }
    otherwise = f"the entropies should be {_written(right)}; take the softmax of the alphas first."
    compare(found, right, mistakes, otherwise)
    decided = entropy(torch.tensor([[0.0, -math.inf, -math.inf]], dtype=torch.float64))
    assert not torch.isnan(decided).any(), (
        "0 times log 0 became nan for an edge that has decided; torch.special.entr counts it as 0."
    )
    zero = torch.zeros(1, dtype=torch.float64)
    compare(decided, zero, {}, "an edge with all its weight on one primitive has entropy 0.")


Node = Callable[[Sequence[Tensor], Tensor, Sequence[Sequence[nn.Module]]], Tensor]


def node_of_a_cell(node: Node) -> None:
    """Check `node(states, alphas, operations)`: the sum of the mixed edges into one node."""
    torch.manual_seed(0)
    names = ("max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3")
    first, second = (MixedOp(2, 1, names).double() for _ in range(2))
    states = torch.randn(2, 4, 2, 5, 5, dtype=torch.float64)

    def from_weights(weights: Tensor) -> Tensor:
        return first(states[0], weights[0]) + second(states[1], weights[1])  # type: ignore[no-any-return]

    right = from_weights(torch.softmax(ROWS, dim=-1))
    found = node(list(states), ROWS, [list(first.operations), list(second.operations)])
    assert has_shape(found, right.shape), (
        f"a node keeps its inputs' shape, {tuple(right.shape)}: add the edges, do not join them."
    )
    down = from_weights(torch.softmax(ROWS, dim=0))
    whole = from_weights(torch.softmax(ROWS.flatten(), dim=0).view_as(ROWS))
    raw = from_weights(ROWS)
    mistakes = {
        down: "the softmax runs over the edges (dim=0); the primitives of one edge compete, so "
        "dim=-1.",
        whole: "the softmax runs over all edges at once; each edge has a softmax of its own.",
        raw: "the alphas are logits; turn each row into weights with a softmax first.",
        right / 2: "that is the mean of the edges; a node adds them.",
    }
    otherwise = "add, over the edges, the weighted sum of the edge's candidates."
    compare(found, right, mistakes, otherwise)


def _written(values: Tensor) -> str:
    return "[" + ", ".join(f"{value:.3f}" for value in values.tolist()) + "]"
