"""Depthwise convolutions: the value and every gradient are those of torch's own."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from darts_lib.kernels.depthwise import Depthwise, depthwise, over_phases, without_dilation

SHAPES = [  # kernel, dilation, height, width
    (3, 2, 8, 8), (5, 2, 9, 7), (5, 2, 4, 4), (5, 2, 1, 3), (5, 1, 4, 6), (7, 1, 2, 5),
    (3, 3, 7, 7), (3, 1, 8, 8),
]  # fmt: skip


def torchs_own(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    padding = dilation * (weight.shape[-1] // 2)
    return F.conv2d(x, weight, None, 1, padding, dilation, x.shape[1])


def problem(
    kernel: int, height: int, width: int, layout: torch.memory_format = torch.contiguous_format
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, height, width, dtype=torch.float64, generator=generator)
    weight = torch.randn(4, 1, kernel, kernel, dtype=torch.float64, generator=generator)
    return [x.contiguous(memory_format=layout).requires_grad_(), weight.requires_grad_()]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("ours_is", [depthwise, over_phases])  # as on the CPU, as on CUDA
@pytest.mark.parametrize("shape", SHAPES)
def test_value_and_gradients_are_torchs(
    shape: tuple[int, int, int, int], ours_is: Callable[..., Tensor], layout: torch.memory_format
) -> None:
    kernel, dilation, *size = shape
    inputs = problem(kernel, *size, layout=layout)
    ours, theirs = ours_is(*inputs, dilation), torchs_own(*inputs, dilation)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    outward = torch.randn(ours.shape, dtype=ours.dtype)
    found, expected = (torch.autograd.grad(out, inputs, outward) for out in (ours, theirs))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 2, 4, 4), (5, 2, 5, 3), (5, 2, 1, 3), (5, 1, 2, 3)])
def test_second_derivatives_are_finite_differences(shape: tuple[int, int, int, int]) -> None:
    kernel, dilation, *size = shape
    inputs = problem(kernel, *size)
    torch.autograd.gradgradcheck(lambda x, w: depthwise(x, w, dilation).sin(), inputs)


@pytest.mark.parametrize("wanted", [0, 1])
def test_only_the_gradient_asked_for_is_computed(wanted: int) -> None:
    inputs = problem(5, 8, 8, torch.channels_last)
    inputs[1 - wanted].requires_grad_(False)
    ours, theirs = (
        torch.autograd.grad(convolved(*inputs, 2).square().sum(), inputs[wanted])
        for convolved in (depthwise, torchs_own)
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (1, 2), (2, 1), (2, 2)])
@pytest.mark.parametrize("side", [3, 5])
@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
def test_what_cuda_computes_without_dilation_is_the_layer(
    stride: int, dilation: int, side: int, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    layer = Depthwise(6, side, stride, dilation).double()
    x = torch.randn(2, 6, *size, dtype=torch.float64, requires_grad=True)
    ends = []
    for out in (layer(x), without_dilation(x, layer.weight, stride, dilation)):
        ends.append([out, *torch.autograd.grad(out.cos().sum(), [x, layer.weight])])
    torch.testing.assert_close(*ends, rtol=0, atol=1e-12)
