"""The pointwise convolutions of several edges at once.

Side by side they are one grouped convolution. On CUDA grouped convolutions have slow gradients: one
dense convolution, whose weight has the edges' weights on its diagonal and zeros elsewhere, takes
half to a third of the time for as many times the multiply-adds as there are edges (cuDNN, on an
H200).
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def pointwise(x: Tensor, weight: Tensor, edges: int) -> Tensor:
    """Mix the channels of each edge: `(batch, edges * channels, h, w)` in and out.

    `weight` is `(edges * channels, channels, 1, 1)`, as of a convolution with so many groups.
    """
    if x.device.type == "cuda" and edges > 1:
        return F.conv2d(x, on_diagonal(weight, edges))
    return F.conv2d(x, weight, groups=edges)


def on_diagonal(weight: Tensor, edges: int) -> Tensor:
    """Return the dense weight `(edges * channels, edges * channels, 1, 1)` that does the same."""
    dense: Tensor = _OnDiagonal.apply(weight, edges)
    return dense


class _OnDiagonal(torch.autograd.Function):
    """Two kernels there and none back; torch's own `block_diag` and `diag_embed` take more."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, edges: int) -> Tensor:
        ctx.edges, ctx.stride = edges, weight.stride()
        dense = weight.new_zeros(len(weight), len(weight), 1, 1)
        _blocks(dense, edges).copy_(weight.view(edges, -1, weight.shape[1]).permute(1, 2, 0))
        return dense

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        blocks = _blocks(grad, ctx.edges).permute(2, 0, 1).reshape(len(grad), -1, 1, 1).contiguous()
        # As the weight says that it lies, also where a side is 1: foreach operations compare that.
        return blocks.as_strided(blocks.shape, ctx.stride), None


def _blocks(dense: Tensor, edges: int) -> Tensor:
    """Return the blocks of the diagonal, `(channels, channels, edges)`: a view."""
    side = len(dense) // edges
    return dense.view(edges, side, edges, side).diagonal(dim1=0, dim2=2)
