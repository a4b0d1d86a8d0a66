"""The pointwise convolutions of several edges at once.

Side by side they are one grouped convolution. On CUDA that has slow gradients; there it is one
matrix product, whose weight has the edges' weights on its diagonal and zeros elsewhere: as many
times the multiply-adds as there are edges, in a third of the time (four edges, on an H200).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def fast_form(weights: Sequence[Tensor], edges: int) -> Sequence[Tensor]:
    """Return grouped pointwise weights in the form that `pointwise` is fast with on their device.

    Each is `(rows, channels, 1, 1)`, as of a convolution with so many groups as edges. On CUDA
    they become matrices `(rows, edges * channels)`; elsewhere they stay.
    """
    on_cuda = bool(weights) and weights[0].device.type == "cuda"
    return as_matrices(weights, edges) if on_cuda else weights


def as_matrices(weights: Sequence[Tensor], edges: int) -> Sequence[Tensor]:
    """Return the matrices; of a single edge the weight is the matrix."""
    if edges == 1:
        return [weight.flatten(1) for weight in weights]
    matrices: Tensor = _OnDiagonal.apply(torch.stack(list(weights)), edges)
    return matrices.unbind()


def pointwise(x: Tensor, weight: Tensor) -> Tensor:
    """Mix the channels of `x`, `(batch, channels, h, w)` in channels_last: grouped, or a matrix."""
    if weight.dim() > 2:
        return F.conv2d(x, weight, groups=x.shape[1] // weight.shape[1])
    return F.linear(x.permute(0, 2, 3, 1), weight).permute(0, 3, 1, 2)


class _OnDiagonal(torch.autograd.Function):
    """Two kernels there and one back; torch's own `block_diag` and `diag_embed` take more."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, edges: int) -> Tensor:
        ctx.edges = edges
        count, width, channels = weights.shape[:3]
        matrices = weights.new_zeros(count, width, edges * channels)
        blocks = weights.view(count, edges, width // edges, channels)
        _blocks(matrices, edges).copy_(blocks.permute(0, 2, 3, 1))
        return matrices

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        blocks = _blocks(grad, ctx.edges).permute(0, 3, 1, 2).contiguous()
        return blocks.view(*grad.shape[:2], -1, 1, 1), None


def _blocks(matrices: Tensor, edges: int) -> Tensor:
    """Return the blocks of the diagonals, `(count, rows / edges, channels, edges)`: a view."""
    rows, columns = (side // edges for side in matrices.shape[1:])
    return matrices.view(-1, edges, rows, edges, columns).diagonal(dim1=1, dim2=3)
