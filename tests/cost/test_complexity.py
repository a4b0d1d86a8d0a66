"""Counting by hand: one convolution, one linear layer; memory and modes left as found."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from darts_lib.cost.complexity import (
    count_parameters,
    multiply_adds,
    published_flops,
    saved_bytes,
    seconds_per_pass,
)


def small() -> nn.Sequential:
    first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    return nn.Sequential(first, nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10))


def test_counts_by_hand() -> None:
    net = small()
    assert multiply_adds(net, (3, 8, 8)) == 4 * 4 * 8 * 3 * 9 + 8 * 4 * 4 * 10
    assert count_parameters(net) == (8 * 3 * 9 + 8) + 16 + (128 * 10 + 10)
    assert count_parameters(net, without="0.") == 16 + 128 * 10 + 10
    # Two for each value normalised with a gain, one for each through a ReLU.
    assert published_flops(net, (3, 8, 8)) == multiply_adds(net, (3, 8, 8)) + 2 * 128 + 128
    grouped = nn.Conv2d(6, 6, 3, padding=1, groups=6)
    assert multiply_adds(grouped, (6, 5, 5)) == 25 * 6 * 9, "each channel reads itself alone"


class Functions(nn.Module):
    """Pools 108 values to 27, of which a ReLU, a second pool and a mean read each."""

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(F.relu(F.max_pool2d(x, 2)), 3).mean(dim=(2, 3))


def test_the_published_rule_layer_by_layer() -> None:
    """On three channels of 6 x 6: 108 values go in; a bias costs nothing."""
    costs = {
        nn.BatchNorm2d(3): 2 * 108,
        nn.BatchNorm2d(3, affine=False): 108,
        nn.BatchNorm2d(3, affine=False, track_running_stats=False): 108,
        nn.ReLU(): 108,
        nn.ReLU(inplace=True): 108,
        nn.MaxPool2d(3, stride=2, padding=1): 108,
        nn.AvgPool2d(3, stride=2, padding=1): 108,
        nn.AdaptiveAvgPool2d(1): 108,
        nn.AdaptiveMaxPool2d(2): 108,
        nn.Conv2d(3, 2, 1): 36 * 6,
        nn.Sequential(nn.Flatten(), nn.Linear(108, 5)): 540,
        nn.Identity(): 0,
        Functions(): 108 + 3 * 27,
    }
    assert {module: published_flops(module, (3, 6, 6)) for module in costs} == costs


@pytest.mark.parametrize("count", [multiply_adds, published_flops])
def test_modes_and_statistics_are_put_back(count: Callable[..., int]) -> None:
    net = small().train()
    net[1].eval()
    before = net[1].running_mean.clone()
    count(net, (3, 8, 8))
    assert (net.training, net[0].training, net[1].training) == (True, True, False)
    assert torch.equal(net[1].running_mean, before)


def test_saved_bytes_by_hand_and_timing_changes_nothing() -> None:
    # A product keeps both factors, a square its input; a storage counts once.
    x, y = torch.randn(100, requires_grad=True), torch.randn(100, requires_grad=True)
    assert saved_bytes(lambda: (x * y).sum()) == 800
    assert saved_bytes(lambda: (x * x * x).sum()) == 800  # x and x * x
    with torch.no_grad():
        assert saved_bytes(lambda: (x * y).sum()) == 0
    w = torch.randn(3, requires_grad=True)
    assert seconds_per_pass(lambda: (w * w).sum(), [w]) > 0
    assert w.grad is None
