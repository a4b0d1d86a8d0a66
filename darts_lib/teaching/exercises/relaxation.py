"""Checks of chapter 02's exercises: counting mixed operations, temperature, a mixture, a node."""

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


def temperature_of_share(temperature: Callable[[Tensor, float], float]) -> None:
    """Check `temperature(row, share)`: where the largest softmax weight of a row is `share`."""
    for row in ROWS:
        for share in (0.4, 0.6, 0.95):
            found = float(temperature(row, share))
            assert found > 0, f"a temperature is above 0, not {found:g}."
            weights = torch.softmax(row / found, dim=-1)
            swapped = float(torch.softmax(row * found, dim=-1).max())
            assert not close(torch.tensor(swapped), torch.tensor(share), 1e-3) or close(
                weights.max(), torch.tensor(share).double(), 1e-3
            ), "you multiply by the temperature; a row is divided by it."
            assert abs(float(weights.max()) - share) < 1e-3, (
                f"at {found:.4g} the largest weight of {_written(row)} is {weights.max():.4f}, not "
                f"{share}: a lower temperature sharpens; halve an interval until it fits."
            )


def mixed_module(build: Callable[[Sequence[nn.Module]], nn.Module]) -> None:
    """Check `build(operations)`: a module whose `forward(x, weights)` is `MixedOp`'s."""
    torch.manual_seed(0)
    names = ("none", "skip_connect", "sep_conv_3x3", "max_pool_3x3")
    library = MixedOp(2, 1, names).double()
    own = build(list(library.operations))
    assert isinstance(own, nn.Module), "return a module: a class that inherits from nn.Module."
    kept, there = list(own.parameters()), list(library.parameters())
    assert len(kept) == len(there), (
        f"your module has {len(kept)} tensors of weights, the library's {len(there)}: keep the "
        "operations in an nn.ModuleList; a plain list hides them from the optimiser."
    )
    x, weights = torch.randn(3, 2, 5, 5, dtype=torch.float64), torch.softmax(ROWS[0], dim=-1)
    for given in (weights, 0.5 * weights):
        first, second = (given.clone().requires_grad_() for _ in range(2))
        found, right = own(x, first), library(x, second)
        assert has_shape(found, right.shape), (
            f"an edge keeps the shape of its input, {tuple(right.shape)}: add the operations' "
            "outputs, each times its weight."
        )
        mistakes = {
            library(x, torch.softmax(given, dim=-1)): "forward takes softmax weights already; no "
            "second softmax.",
            right / len(names): "that is a mean; the weights already share out the whole.",
        }
        compare(found, right, mistakes, "add weight times operation(x), over all operations.")
        found.square().sum().backward()
        right.square().sum().backward()
        hint = "the value is right, but the gradient is not: do not detach the weights."
        assert first.grad is not None, hint
        assert second.grad is not None
        assert close(first.grad, second.grad), hint


Node = Callable[[Sequence[Tensor], Tensor, Sequence[Sequence[nn.Module]]], Tensor]


def node_of_a_cell(node: Node) -> None:
    """Check `node(states, alphas, operations)`: the sum of the mixed edges into one node."""
    torch.manual_seed(0)
    names = ("max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3")
    first, second = (MixedOp(2, 1, names).double() for _ in range(2))
    states = torch.randn(2, 4, 2, 5, 5, dtype=torch.float64)

    def from_weights(weights: Tensor) -> Tensor:
        return first(states[0], weights[0]) + second(states[1], weights[1])

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
