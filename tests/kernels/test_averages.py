"""Averages of feature maps: their values, and where their gradients lie in memory."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from darts_lib.kernels.averages import global_average, quarters
from darts_lib.network import AuxiliaryHead


@pytest.mark.parametrize("size", [(4, 4), (3, 5), (1, 1)])
def test_the_global_average_is_the_mean_and_its_gradient_lies_so(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    for layout in (torch.contiguous_format, torch.channels_last):
        map_ = x.contiguous(memory_format=layout).requires_grad_()
        average = global_average(map_)
        torch.testing.assert_close(average, x.mean(dim=(2, 3)), rtol=0, atol=1e-15)
        (gradient,) = torch.autograd.grad(average.cos().sum(), map_)
        assert gradient.is_contiguous(memory_format=layout)
        expected = -x.mean(dim=(2, 3), keepdim=True).sin().expand_as(x) / (size[0] * size[1])
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-15)


class NoAdaptivePooling(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert "adaptive" not in str(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("sides", [(1, 1), (1, 3), (2, 2), (3, 5), (6, 7), (7, 7), (8, 8)])
def test_no_adaptive_pooling_is_left(sides: tuple[int, int]) -> None:
    """Of pytorch/pytorch#96056: mps refuses it for sides that do not divide.

    CUDA's deterministic mode (pytorch/pytorch#50198) refuses it altogether.
    """
    x = torch.randn(2, 3, *sides, requires_grad=True)
    theirs = F.adaptive_avg_pool2d(x, 2)
    expected = theirs, *torch.autograd.grad(theirs.square().sum(), x)
    with NoAdaptivePooling():
        ours = quarters(x)
        found = ours, *torch.autograd.grad(ours.square().sum(), x)
        AuxiliaryHead(3, 10)(x).sum().backward()
    torch.testing.assert_close(found, expected)
