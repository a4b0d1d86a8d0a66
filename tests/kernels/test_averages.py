"""Averages of feature maps: their values, and where their gradients lie in memory."""

import pytest
import torch

from darts_lib.kernels.averages import global_average


@pytest.mark.parametrize("size", [(4, 4), (3, 5), (1, 1)])
def test_the_global_average_is_the_mean_and_its_gradient_lies_as_the_map_does(
    size: tuple[int, int],
) -> None:
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
