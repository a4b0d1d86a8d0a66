"""Depthwise convolutions whose gradients cost about what their values cost.

On the CPU two gradients have no fast kernel (torch 2.14, oneDNN): those of a dilated depthwise
convolution, and that for the weights where the window is wider than the image. They take 5 to 50
times as long as the convolution itself. Both are easily said in operations that are fast:

- for the input: the gradient, convolved with the kernel turned by half a turn;
- for the weight at one place of the window: the gradient times the input moved by that much, summed
  over batch and pixels.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def depthwise(x: Tensor, weight: Tensor, dilation: int = 1) -> Tensor:
    """Convolve each channel by itself, keeping the size; differentiable any number of times.

    `x` is `(batch, channels, h, w)` and `weight` `(channels, 1, k, k)` with an odd `k`.
    """
    slow = dilation > 1 or weight.shape[-1] > min(x.shape[2:])
    if slow and x.device.type == "cpu":
        out: Tensor = _Depthwise.apply(x, weight, dilation)
        return out
    return _convolve(x, weight, dilation)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dilation = dilation
        return _convolve(x, weight, dilation)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, _ = ctx.needs_input_grad
        grad_x = depthwise(grad, weight.flip(2, 3), ctx.dilation) if wants_x else None
        grad_weight = _weight_gradient(x, weight, grad, ctx.dilation) if wants_weight else None
        return grad_x, grad_weight, None


def _convolve(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    padding = dilation * (weight.shape[-1] // 2)
    return F.conv2d(x, weight, None, 1, padding, dilation, x.shape[1])


def _weight_gradient(x: Tensor, weight: Tensor, grad: Tensor, dilation: int) -> Tensor:
    reach = dilation * (weight.shape[-1] // 2)
    moves = range(-reach, reach + 1, dilation)
    places = []
    for down in moves:
        rows, grad_rows = _overlap(x, 2, down), _overlap(grad, 2, -down)
        for right in moves:
            product = _overlap(rows, 3, right) * _overlap(grad_rows, 3, -right)
            places.append(product.sum((0, 2, 3)))
    return torch.stack(places, dim=1).view_as(weight)


def _overlap(x: Tensor, axis: int, move: int) -> Tensor:
    """Return the part of `x` that a copy moved along `axis` meets; empty where none does."""
    size = x.shape[axis]
    return x.narrow(axis, min(max(move, 0), size), max(size - abs(move), 0))
