"""Depthwise convolutions: the value and every gradient are those of torch's own."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from darts_lib.kernels.depthwise import Depthwise, depthwise, over_phases, without_dilation

Shape = tuple[int, ...]
SHAPES = [  # kernel, dilation, height, width
    (3, 2, 8, 8), (5, 2, 9, 7), (5, 2, 4, 4), (5, 2, 1, 3), (5, 1, 4, 6), (7, 1, 2, 5),
    (3, 3, 7, 7), (3, 1, 8, 8),
]  # fmt: skip
LAYOUTS = torch.contiguous_format, torch.channels_last


def torchs_own(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    padding = dilation * (weight.shape[-1] // 2)
    return F.conv2d(x, weight, None, 1, padding, dilation, x.shape[1])


def problem(kernel: int, *size: int, layout: torch.memory_format = LAYOUTS[0]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, *size, dtype=torch.float64, generator=generator)
    weight = torch.randn(4, 1, kernel, kernel, dtype=torch.float64, generator=generator)
    return [x.contiguous(memory_format=layout).requires_grad_(), weight.requires_grad_()]


@pytest.mark.parametrize("ours_is", [depthwise, over_phases])  # as on the CPU, as on CUDA
@pytest.mark.parametrize("shape", SHAPES)
def test_value_and_gradients_are_torchs(shape: Shape, ours_is: Callable[..., Tensor]) -> None:
    kernel, dilation, *size = shape
    for layout in LAYOUTS:
        inputs = problem(kernel, *size, layout=layout)
        ours, theirs = ours_is(*inputs, dilation), torchs_own(*inputs, dilation)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
        outward = torch.randn(ours.shape, dtype=ours.dtype)
        found, expected = (torch.autograd.grad(out, inputs, outward) for out in (ours, theirs))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 2, 4, 4), (5, 2, 5, 3), (5, 2, 1, 3), (5, 1, 2, 3)])
def test_second_derivatives_are_finite_differences(shape: Shape) -> None:
    kernel, dilation, *size = shape
    inputs = problem(kernel, *size)
    torch.autograd.gradgradcheck(lambda x, w: depthwise(x, w, dilation).sin(), inputs)


def test_what_cuda_computes_without_dilation_is_the_layer() -> None:
    for given in itertools.product((1, 2), (1, 2), (3, 5), ((8, 8), (7, 10))):
        stride, dilation, side, size = given
        layer = Depthwise(6, side, stride, dilation).double()
        x = torch.randn(2, 6, *size, dtype=torch.float64, requires_grad=True)
        ends = []
        for out in (layer(x), without_dilation(x, layer.weight, stride, dilation)):
            ends.append([out, *torch.autograd.grad(out.cos().sum(), [x, layer.weight])])
        torch.testing.assert_close(*ends, rtol=0, atol=1e-12, msg=str(given))
