"""Counting by hand: one convolution, one linear layer; memory and modes left as found."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from darts_lib.cost import complexity
from darts_lib.cost.complexity import count_parameters, multiply_adds, published_flops, saved_bytes
from darts_lib.genotype import PUBLISHED
from darts_lib.network import ImageNetNetwork


def small() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
        nn.Linear(8 * 4 * 4, 10),
    )  # fmt: skip


def test_counts_by_hand() -> None:
    net = small()
    assert multiply_adds(net, (3, 8, 8)) == 4 * 4 * 8 * 3 * 9 + 8 * 4 * 4 * 10
    assert complexity.flops(net, (3, 8, 8)) == 2 * multiply_adds(net, (3, 8, 8))
    assert count_parameters(net) == (8 * 3 * 9 + 8) + 16 + (128 * 10 + 10)
    assert count_parameters(net, without="0.") == 16 + 128 * 10 + 10
    # Two for each value normalised with a gain, one for each through a ReLU.
    assert published_flops(net, (3, 8, 8)) == multiply_adds(net, (3, 8, 8)) + 2 * 128 + 128
    grouped = nn.Conv2d(6, 6, 3, padding=1, groups=6)
    assert multiply_adds(grouped, (6, 5, 5)) == 25 * 6 * 9, "each channel reads itself alone"


@pytest.mark.parametrize(("module", "cost"), [
    (nn.BatchNorm2d(3), 2 * 108),
    (nn.BatchNorm2d(3, affine=False), 108),
    (nn.BatchNorm2d(3, affine=False, track_running_stats=False), 108),
    (nn.ReLU(), 108),
    (nn.ReLU(inplace=True), 108),
    (nn.MaxPool2d(3, stride=2, padding=1), 108),
    (nn.AvgPool2d(3, stride=2, padding=1), 108),
    (nn.AdaptiveAvgPool2d(1), 108),
    (nn.AdaptiveAvgPool2d(2), 108),
    (nn.AdaptiveMaxPool2d(2), 108),
    (nn.Conv2d(3, 2, 1), 36 * 6),
    (nn.Sequential(nn.Flatten(), nn.Linear(108, 5)), 540),
    (nn.Identity(), 0),
], ids=str)  # fmt: skip
def test_the_published_rule_layer_by_layer(module: nn.Module, cost: int) -> None:
    """On three channels of 6 x 6: 108 values go in; a bias costs nothing."""
    assert published_flops(module, (3, 6, 6)) == cost


def test_the_published_rule_counts_functions_like_modules() -> None:
    class Functions(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.adaptive_avg_pool2d(F.relu(F.max_pool2d(x, 2)), 2).mean(dim=(2, 3))

    # The pool reads 48 values, the ReLU and the second pool 12 each, the mean 12.
    assert published_flops(Functions(), (3, 4, 4)) == 48 + 12 + 12 + 12


@pytest.mark.parametrize("count", [multiply_adds, complexity.flops, published_flops])
def test_modes_and_statistics_are_put_back(count: Callable[..., int]) -> None:
    net = small().train()
    net[1].eval()
    before = net[1].running_mean.clone()
    count(net, (3, 8, 8))
    assert [part.training for part in (net, net[0], net[1])] == [True, True, False]
    assert torch.equal(net[1].running_mean, before)


def test_saved_bytes_by_hand_and_timing_changes_nothing() -> None:
    # A product keeps both factors, a square its input; a storage counts once.
    x, y = torch.randn(100, requires_grad=True), torch.randn(100, requires_grad=True)
    assert saved_bytes(lambda: (x * y).sum()) == 800
    assert saved_bytes(lambda: (x * x * x).sum()) == 800  # x and x * x
    with torch.no_grad():
        assert saved_bytes(lambda: (x * y).sum()) == 0
    w = torch.randn(3, requires_grad=True)
    assert complexity.seconds_per_pass(lambda: (w * w).sum(), [w]) > 0
    assert w.grad is None


def test_the_multiply_adds_of_each_part_by_hand() -> None:
    conv, linear = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Linear(128, 10)
    net = nn.Sequential(nn.Sequential(conv, nn.BatchNorm2d(8)), nn.ReLU(), nn.Flatten(), linear)
    ours, last = 4 * 4 * 8 * 3 * 9, 8 * 4 * 4 * 10
    by_part = complexity.multiply_adds_by_part(net.train(), (3, 8, 8))
    assert by_part == {"": ours + last, "0": ours, "0.0": ours, "3": last}
    assert net.training


def test_the_parts_of_a_network_add_up() -> None:
    """The auxiliary head is not among them: it is no part of what is used."""
    with torch.device("meta"):
        net = ImageNetNetwork(PUBLISHED["DARTS_V2"], 8, 3, auxiliary=True)
    by_part = complexity.multiply_adds_by_part(net, (3, 64, 64))
    top = [f"cells.{i}" for i in range(3)] + ["stem0", "stem1", "classifier"]
    assert sum(by_part[name] for name in top) == by_part[""]
    assert by_part[""] == multiply_adds(net, (3, 64, 64))
    assert not any(name.startswith("auxiliary_head") for name in by_part)
