"""Pointwise convolutions of several edges: the matrix of CUDA is the grouped one."""

import pytest
import torch
from torch.nn import functional as F

from darts_lib.kernels.pointwise import as_matrices, fast_form, pointwise


@pytest.mark.parametrize("sizes", [(1, 3, 3), (2, 1, 2), (4, 3, 12), (2, 3, 8), (3, 4, 3)])
def test_the_matrix_is_the_grouped_convolution(sizes: tuple[int, int, int]) -> None:
    edges, channels, rows = sizes
    generator = torch.Generator().manual_seed(0)
    width = edges * channels
    x = torch.randn(2, width, 3, 5, dtype=torch.float64, generator=generator)
    weights = torch.randn(2, rows, channels, 1, 1, dtype=torch.float64, generator=generator)
    inputs = [x.requires_grad_(), weights.requires_grad_()]
    dense = sum(pointwise(x, matrix) for matrix in as_matrices(weights.unbind(), edges))
    grouped = sum(F.conv2d(x, own, groups=edges) for own in weights)
    torch.testing.assert_close(sum(pointwise(x, own) for own in weights), grouped)
    torch.testing.assert_close(dense, grouped, rtol=0, atol=1e-13)
    outward = torch.randn(grouped.shape, dtype=torch.float64, generator=generator)
    found, expected = (torch.autograd.grad(out, inputs, outward) for out in (dense, grouped))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


def test_the_gradient_of_a_gradient_is_right_too() -> None:
    weights = torch.randn(2, 6, 3, 1, 1, dtype=torch.float64, requires_grad=True)
    as_one = lambda w: torch.stack([*as_matrices(w.unbind(), 2)]).sin()  # noqa: E731
    torch.autograd.gradgradcheck(as_one, weights)


def test_off_cuda_the_weights_stay() -> None:
    weights = [torch.ones(4, 2, 1, 1)]
    assert fast_form(weights, 2) is weights
