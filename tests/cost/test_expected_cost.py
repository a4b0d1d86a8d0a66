"""The expected cost: by hand, against the operations of the supernet, and its gradient."""

from typing import cast

import pytest
import torch
from torch.nn import functional as F

from darts_lib.cost.complexity import count_parameters, multiply_adds, published_flops
from darts_lib.cost.expected_cost import edge_costs, expected_cost
from darts_lib.relaxation import SearchCell, Supernet, initial_alphas, mix
from darts_lib.search_space import KINDS, PRIMITIVES, edges

COLUMN = {name: column for column, name in enumerate(PRIMITIVES)}
NODES, SIZE = 3, (13, 10)


def test_by_hand_and_exact_beyond_float32() -> None:
    alphas = {"normal": torch.tensor([[0.0, 0.0], [0.0, 3.0]]).log1p()}
    costs = {"normal": torch.tensor([[10.0, 20.0], [100.0, 200.0]], dtype=torch.float64)}
    assert float(expected_cost(alphas, costs)) == pytest.approx(15 + (100 + 4 * 200) / 5)
    chosen = expected_cost(alphas, costs, mix=lambda _: {"normal": torch.eye(2).double()})
    assert float(chosen) == 10 + 200, "the weights are those of the mix that is given"
    costs = {"normal": torch.tensor([[2.0**24 + 1, 0.0]], dtype=torch.float64)}
    value = expected_cost({"normal": torch.tensor([[1000.0, 0.0]])}, costs)
    assert (value.dtype, value.shape, float(value)) == (torch.float64, (), 2**24 + 1)
    with pytest.raises(ValueError, match=r"alphas\['normal'\] has shape \(5, 8\).*\(9, 8\)"):
        expected_cost(initial_alphas(2), edge_costs(4, 3, NODES, SIZE))


def test_the_table_by_hand_for_one_node() -> None:
    """Three layers of 4 channels on 8x8: one normal cell, then reductions to 8 and 16 channels."""
    costs = edge_costs(4, 3, 1, (8, 8))
    assert {*costs} == {*KINDS}
    assert {(tuple(cost.shape), cost.dtype) for cost in costs.values()} == {((2, 8), torch.float64)}
    for row in costs["normal"]:
        assert row[:4].tolist() == [0, 0, 0, 0]
        assert row[COLUMN["sep_conv_3x3"]] == 2 * 64 * (9 * 4 + 4 * 4)
        assert row[COLUMN["dil_conv_5x5"]] == 64 * (25 * 4 + 4 * 4)
    # 8 pixels become 4 and then 2; only the first half of a separable convolution has the stride.
    for row in costs["reduce"]:
        assert row[COLUMN["skip_connect"]] == 16 * 8 * 8 + 4 * 16 * 16
        assert row[COLUMN["sep_conv_3x3"]] == 2 * 16 * (9 * 8 + 8 * 8) + 2 * 4 * (9 * 16 + 16 * 16)


def test_one_chosen_operation_an_edge_costs_what_these_operations_cost() -> None:
    """Each chosen operation is counted on the maps that it sees in the supernet, of odd size."""
    torch.manual_seed(0)
    net = Supernet(4, 5, NODES)
    choice = {kind: torch.randint(8, (len(edges(NODES)),)) for kind in KINDS}
    counts: list[int] = []
    for kind, cell in zip(net.kinds, net.cells, strict=True):
        for edge, chosen in zip(cast(SearchCell, cell).edges, choice[kind].tolist(), strict=True):
            edge.register_forward_pre_hook(
                lambda edge, inputs, chosen=chosen: counts.append(
                    multiply_adds(edge.operations[chosen], inputs[0].shape[1:])
                )
            )
    net(torch.zeros(1, 3, *SIZE), mix(initial_alphas(NODES)))
    alphas = {kind: 1000.0 * F.one_hot(chosen, 8) for kind, chosen in choice.items()}
    assert len(counts) == 5 * len(edges(NODES))
    assert float(expected_cost(alphas, edge_costs(4, 5, NODES, SIZE))) == sum(counts) > 0


def test_all_operations_and_the_shared_parts_make_the_published_supernet() -> None:
    # A supernet that knows only `none` has the shared parts and nothing else.
    shared = Supernet(primitives=("none",))
    weights = mix(initial_alphas(primitives=("none",)))
    total = sum(float(cost.sum()) for cost in edge_costs(16, 8, 4, (32, 32)).values())
    assert total + multiply_adds(shared, (3, 32, 32), weights) == 300_255_744
    costs = edge_costs(4, 5, NODES, SIZE)
    mean = sum(float(cost.sum()) for cost in costs.values()) / 8
    uniform = {kind: torch.zeros(len(edges(NODES)), 8) for kind in KINDS}
    assert float(expected_cost(uniform, costs)) == pytest.approx(mean, rel=1e-14)


def test_parameters_or_another_rule_can_be_counted_instead() -> None:
    costs = edge_costs(4, 5, NODES, SIZE, count=lambda operation, _: count_parameters(operation))
    cells = Supernet(4, 5, NODES).cells
    in_edges = sum(count_parameters(cast(SearchCell, cell).edges) for cell in cells)
    assert sum(float(cost.sum()) for cost in costs.values()) == in_edges > 0
    pools = edge_costs(4, 3, 1, (8, 8), ("none", "max_pool_3x3"), published_flops)["normal"]
    assert pools.tolist() == [[0, 2 * 256]] * 2  # a pool and its normalisation without gain


def test_the_gradient_is_the_softmaxs() -> None:
    """The derivative of a mean by a logit: the probability times the distance from the mean."""
    torch.manual_seed(0)
    alphas = {kind: torch.randn(9, 8, requires_grad=True) for kind in KINDS}
    costs = edge_costs(4, 5, NODES, SIZE)
    gradients = torch.autograd.grad(expected_cost(alphas, costs), list(alphas.values()))
    for (kind, alpha), gradient in zip(alphas.items(), gradients, strict=True):
        weights = alpha.detach().double().softmax(dim=-1)
        mean = (weights * costs[kind]).sum(dim=-1, keepdim=True)
        torch.testing.assert_close(gradient, (weights * (costs[kind] - mean)).float())
