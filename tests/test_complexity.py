"""Counting by hand: one convolution, one linear layer; memory and modes left as found."""

import torch
from torch import nn

from darts_lib.complexity import count_parameters, multiply_adds, saved_bytes, seconds_per_pass


def small() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
        nn.Linear(8 * 4 * 4, 10),
    )  # fmt: skip


def test_counts_by_hand() -> None:
    net = small()
    assert multiply_adds(net, (3, 8, 8)) == 4 * 4 * 8 * 3 * 9 + 8 * 4 * 4 * 10
    assert count_parameters(net) == (8 * 3 * 9 + 8) + 16 + (128 * 10 + 10)
    assert count_parameters(net, without="0.") == 16 + 128 * 10 + 10


def test_grouped_convolutions_count_only_their_own_inputs() -> None:
    assert multiply_adds(nn.Conv2d(6, 6, 3, padding=1, groups=6), (6, 5, 5)) == 25 * 6 * 9


def test_modes_and_statistics_are_put_back() -> None:
    net = small().train()
    net[1].eval()
    before = net[1].running_mean.clone()
    multiply_adds(net, (3, 8, 8))
    assert net.training
    assert not net[1].training
    assert net[0].training
    assert torch.equal(net[1].running_mean, before)


def test_saved_bytes_by_hand() -> None:
    """A product keeps both factors, a square its input; a storage counts once."""
    x, y = torch.randn(100, requires_grad=True), torch.randn(100, requires_grad=True)
    assert saved_bytes(lambda: (x * y).sum()) == 800
    assert saved_bytes(lambda: (x * x * x).sum()) == 800  # x and x * x
    with torch.no_grad():
        assert saved_bytes(lambda: (x * y).sum()) == 0


def test_timing_changes_nothing() -> None:
    w = torch.randn(3, requires_grad=True)
    assert seconds_per_pass(lambda: (w * w).sum(), [w]) > 0
    assert w.grad is None
