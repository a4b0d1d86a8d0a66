"""Depthwise convolutions whose gradients cost about what their values cost.

A window of dilation 2 does not mix every second row and column with the others: these are pictures
of their own, its phases, and the window on them is not dilated.

On CUDA a dilated convolution in channels_last takes 13 times as long as one that is not (cuDNN, on
an H200), so it is taken over the phases. On the CPU the value is fast and the gradients are not: a
depthwise convolution has a fast one only if its window is not dilated and at most three pixels wide
(torch 2.14, oneDNN); any other takes 5 to 50 times as long as the convolution itself. Both are said
in convolutions that are fast. The input's is the gradient, convolved with the kernel turned by half
a turn. For the weight's a wide window is cut into windows three columns wide, each over the input
moved by as much, and a dilated one is taken over the phases.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

FAST_WIDTH = 3
"""The widest window, in pixels, for which the weight's gradient has a fast kernel."""


def depthwise(x: Tensor, weight: Tensor, dilation: int = 1) -> Tensor:
    """Convolve each channel by itself, keeping the size; differentiable any number of times.

    `x` is `(batch, channels, h, w)` and `weight` `(channels, 1, k, k)` with an odd `k`.
    """
    if dilation > 1 and x.device.type == "cuda":
        return over_phases(x, weight, dilation)
    slow = dilation > 1 or weight.shape[-1] > FAST_WIDTH
    if slow and x.device.type == "cpu":
        if torch.is_autocast_enabled("cpu"):  # one type for values and gradients
            kind = torch.get_autocast_dtype("cpu")
            x, weight = x.to(kind), weight.to(kind)
        return _Convolution.apply(x, weight, dilation)
    return convolve(x, weight, dilation)


class Depthwise(nn.Conv2d):
    """A layer that does it, with 'same' padding; the CPU keeps torch's own form: the plain one."""

    def __init__(self, channels: int, kernel: int, stride: int, dilation: int) -> None:
        padding = dilation * (kernel - 1) // 2
        super().__init__(
            channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """Convolve each channel by itself."""
        if x.is_cuda:
            return without_dilation(x, self.weight, self.stride[0], self.dilation[0])
        return super().forward(x)


def without_dilation(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    """Return the same without a dilated window, where one is not needed."""
    if stride == dilation:  # it reads every so many rows and columns and no others
        return convolve(x[:, :, ::stride, ::stride], weight, 1)
    if stride == 1:
        return over_phases(x, weight, dilation)
    return convolve(x, weight, dilation, stride)


def over_phases(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Return the same without a dilated window: convolve the phases, and put them together."""
    height, width = x.shape[2:]
    pictures = convolve(split_phases(x, dilation), weight, 1)
    return join_phases(pictures, dilation)[:, :, :height, :width]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dilation = dilation
        return convolve(x, weight, dilation)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, _ = ctx.needs_input_grad
        grad_x = depthwise(grad, weight.flip(2, 3), ctx.dilation) if wants_x else None
        if not wants_weight:
            return grad_x, None, None
        return grad_x, _weight_gradient(x, grad, weight.shape[-1], ctx.dilation), None


def convolve(x: Tensor, weight: Tensor, dilation: int, stride: int = 1) -> Tensor:
    """Convolve each channel by itself, with 'same' padding, in torch's own form."""
    padding = dilation * (weight.shape[-1] // 2)
    return F.conv2d(x, weight, None, stride, padding, dilation, x.shape[1])


def _weight_gradient(x: Tensor, grad: Tensor, side: int, dilation: int) -> Tensor:
    """Return the gradient for a weight `(channels, 1, side, side)`, in strips of its columns."""
    x, grad = split_phases(x, dilation), split_phases(grad, dilation)
    reach = side // 2
    if side <= FAST_WIDTH:
        return _strip(x, grad, side, side, reach)
    padded = F.pad(x, (reach, reach, reach, reach))
    strips = []
    for first in range(0, side, FAST_WIDTH):
        columns = min(FAST_WIDTH, side - first)
        moved = padded.narrow(3, first, grad.shape[3] + columns - 1)
        strips.append(_strip(moved, grad, side, columns, 0))
    return torch.cat(strips, dim=3)


def _strip(x: Tensor, grad: Tensor, rows: int, columns: int, padding: int) -> Tensor:
    shape = (x.shape[1], 1, rows, columns)
    strip: Tensor = conv2d_weight(x, shape, grad, padding=padding, groups=x.shape[1])  # type: ignore[no-untyped-call]
    return strip


def split_phases(x: Tensor, step: int) -> Tensor:
    """Return the pictures of every `step`-th row and column, side by side in the batch.

    A picture that `step` does not divide gets rows and columns of zeros, which add nothing.
    """
    if step == 1:
        return x
    down, right = (-size % step for size in x.shape[2:])
    if down or right:
        x = F.pad(x, (0, right, 0, down))
    # In the order in which channels_last lies in memory: then it is one copy.
    rows = torch.unflatten(x.permute(0, 2, 3, 1), 2, (-1, step))
    rows = torch.unflatten(rows, 1, (-1, step))
    return rows.permute(2, 4, 0, 1, 3, 5).flatten(0, 2).permute(0, 3, 1, 2)


def join_phases(pictures: Tensor, step: int) -> Tensor:
    """Return the pictures whose phases these are."""
    if step == 1:
        return pictures
    rows = pictures.permute(0, 2, 3, 1)
    rows = torch.unflatten(rows, 0, (step, step, len(pictures) // step**2))
    return rows.permute(2, 3, 0, 4, 1, 5).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)
