"""The supernet: the formula by hand, any size of image, alphas apart from the weights."""

import math

import pytest
import torch

from darts_lib.recurrent import relaxation as recurrent
from darts_lib.relaxation import MixedOp, SearchCell, Supernet, entropy, initial_alphas, mix
from darts_lib.search_space import PRIMITIVES, CellPlan


def test_mixed_operation_is_the_weighted_sum() -> None:
    torch.manual_seed(0)
    mixed, x = MixedOp(4, 1, PRIMITIVES), torch.randn(3, 4, 6, 6)
    weights = torch.softmax(torch.randn(8), 0)
    by_hand = sum(weight * each(x) for weight, each in zip(weights, mixed.operations, strict=True))
    torch.testing.assert_close(mixed(x, weights), by_hand)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_mixed_operation_keeps_the_memory_format(stride: int) -> None:
    """Else `net.to(memory_format=torch.channels_last)` is undone at each edge."""
    layout = {"memory_format": torch.channels_last}
    mixed, x = MixedOp(4, stride, PRIMITIVES).to(**layout), torch.randn(3, 4, 6, 6).to(**layout)
    assert mixed(x, torch.softmax(torch.randn(8), 0)).is_contiguous(**layout)


def test_search_cell_by_hand_for_two_nodes() -> None:
    torch.manual_seed(1)
    cell = SearchCell(CellPlan("normal", 4, 6, 8, False), 2, PRIMITIVES)
    before, previous = torch.randn(2, 6, 5, 5), torch.randn(2, 8, 5, 5)
    weights = torch.softmax(torch.randn(5, 8), 1)
    edge = [lambda s, i=i: cell.edges[i](s, weights[i]) for i in range(5)]  # type: ignore[misc]
    s0, s1 = cell.preprocess0(before), cell.preprocess1(previous)
    n2 = edge[0](s0) + edge[1](s1)
    n3 = edge[2](s0) + edge[3](s1) + edge[4](n2)
    torch.testing.assert_close(cell(before, previous, weights), torch.cat([n2, n3], 1))


def test_parameters_are_the_weights_and_nothing_else() -> None:
    net, alphas = Supernet(4, 3), initial_alphas()
    assert not any("alpha" in name for name, _ in net.named_parameters())
    assert not list(net.buffers()), "a search network keeps no running statistics"
    own = {id(parameter) for parameter in net.parameters()}
    assert not own & {id(alpha) for alpha in alphas.values()}


@pytest.mark.parametrize("size", [(8, 8), (27, 27), (28, 30), (33, 31), (7, 9), (1, 1)])
@pytest.mark.parametrize("in_channels", [1, 3])
def test_any_image_size(size: tuple[int, int], in_channels: int) -> None:
    net = Supernet(2, 3, 2, 5, in_channels)
    assert net(torch.randn(3, in_channels, *size), mix(initial_alphas(2))).shape == (3, 5)


def test_initial_alphas_are_small_seeded_leaves() -> None:
    shapes = {"normal": (14, 8), "reduce": (14, 8), "recurrent": (36, 5)}
    alphas, same, other = (
        initial_alphas(seed=seed) | recurrent.initial_alphas(seed=seed) for seed in (3, 3, 4)
    )
    assert {kind: tuple(value.shape) for kind, value in alphas.items()} == shapes
    for kind, value in alphas.items():
        assert value.is_leaf
        assert value.requires_grad
        assert 0.5e-3 < float(value.detach().std()) < 1.5e-3
        assert torch.equal(value, same[kind])
        assert not torch.equal(value, other[kind])


def test_wrong_weights_are_named() -> None:
    net, x = Supernet(2, 3), torch.randn(2, 3, 8, 8)
    message = r"weights\['\w+'\] must have shape \(14, 8\) .* not \(5, 8\); mix\(initial_alphas"
    with pytest.raises(ValueError, match=message):
        net(x, mix(initial_alphas(2)))
    with pytest.raises(ValueError, match=r"weights\['reduce'\] .* not nothing"):
        net(x, {"normal": torch.ones(14, 8)})


def test_mix_is_a_softmax_by_row_and_ignores_the_draw() -> None:
    weights = torch.tensor([[0.2, 0.4, 0.4], [0.0, 0.5, 0.5]])
    for draw in (None, {"normal": torch.randn(2, 3)}):
        found = mix({"normal": 3 + weights.log()}, draw)
        torch.testing.assert_close(found, {"normal": weights})


def test_entropy_is_the_edges_mean_in_nats() -> None:
    weights = torch.tensor([[0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0]])
    assert entropy(weights) == pytest.approx(math.log(4) / 2)
