"""The pointwise convolutions of several edges at once.

Side by side they are one grouped convolution. On CUDA grouped convolutions have slow gradients: one
dense convolution, whose weight has the edges' weights on its diagonal and zeros elsewhere, takes
half to a third of the time for as many times the multiply-adds as there are edges (cuDNN, on an
H200).
"""

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
    blocks = weight.view(edges, -1, weight.shape[1]).permute(1, 2, 0)
    return torch.diag_embed(blocks, dim1=0, dim2=2).reshape(len(weight), -1, 1, 1)
