"""The candidate operations as modules, and one table that builds them by name.

Every operation maps `(batch, channels, height, width)` to the same shape at stride 1 and to
`(batch, channels, ceil(height / 2), ceil(width / 2))` at stride 2.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from darts_lib.engine.refusals import unknown
from darts_lib.kernels.depthwise import Depthwise
from darts_lib.search_space import OWN_PRIMITIVES, CellPlan

Build = Callable[[int, int, bool], nn.Module]
"""Builds an operation from (channels, stride, affine)."""


def batch_norm(channels: int, affine: bool) -> nn.BatchNorm2d:
    """Return the normalisation of a network: trained (affine) or searched (not affine).

    A search network has neither gain nor running statistics: it always uses those of the batch, so
    the extra passes of the architecture step leave nothing behind. Paper, section 3.1.1.
    """
    return nn.BatchNorm2d(channels, affine=affine, track_running_stats=affine)


def normalise(x: Tensor, gain: Tensor | None = None) -> Tensor:
    """Normalise each channel by the batch's statistics, times a gain `(channels,)`.

    The gain must be contiguous: on the CPU with channels_last an expanded one gives a wrong input
    gradient without a word (torch 2.14).
    """
    return F.batch_norm(x, None, None, gain, training=True)


class Zero(nn.Module):
    """`none`: the absence of an edge, zeros of the right size."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Return zeros; every second pixel at stride 2."""
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class Block(nn.Module):
    """Layers one after the other, called `op` as in the original code, whose weights fit."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.op = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(batch, channels_in, h, w)` to `(batch, channels, ceil(h / stride), ...)`."""
        return self.op(x)


class ReLUConvBN(Block):
    """ReLU, 1x1 convolution, normalisation: brings a cell's input to the cell's channels."""

    def __init__(self, channels_in: int, channels: int, affine: bool) -> None:
        convolution = nn.Conv2d(channels_in, channels, 1, bias=False)
        super().__init__(nn.ReLU(), convolution, batch_norm(channels, affine))


class FactorizedReduce(nn.Module):
    """Halve the image with two 1x1 convolutions of stride 2, the second shifted by one pixel.

    Together they read half of an even image's pixels. Of an odd image the shifted half ends in a
    line of zeros, so that it comes out as large as what other operations of stride 2 put out.
    """

    def __init__(self, channels_in: int, channels: int, affine: bool) -> None:
        super().__init__()
        if channels % 2:
            raise ValueError(f"channels must be even to reduce in two halves, not {channels}.")
        self.relu = nn.ReLU()
        self.conv_1 = nn.Conv2d(channels_in, channels // 2, 1, bias=False)
        self.conv_2 = nn.Conv2d(channels_in, channels // 2, 1, bias=False)
        self.bn = batch_norm(channels, affine)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(batch, channels_in, h, w)` to `(batch, channels, ceil(h / 2), ceil(w / 2))`."""
        even, odd = every_second_pixel(self.relu(x))
        halves = torch.cat([self.conv_1(even), self.conv_2(odd)], dim=1)
        return self.bn(halves)


def every_second_pixel(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pixels of even row and column, and those of odd row and column.

    Both are `(batch, channels, ceil(h / 2), ceil(w / 2))`; where a size is odd, the second ends in
    a line of zeros. A 1x1 convolution of either is one of stride 2, said in another way: that form
    overwrites memory in the backward pass of channels_last images with fewer than 8 channels (torch
    2.14; uxlfoundation/oneDNN issue 6035).
    """
    height, width = x.shape[-2:]
    even, odd = x[:, :, ::2, ::2], x[:, :, 1::2, 1::2]
    return even, F.pad(odd, (0, width % 2, 0, height % 2)) if width % 2 or height % 2 else odd


def preprocess(plan: CellPlan, affine: bool) -> tuple[nn.Module, nn.Module]:
    """Return what brings a cell's two inputs to its channels, and to one size. Paper, 3.1.1."""
    # Right after a reduction cell the older input is still twice as large.
    older = FactorizedReduce if plan.previous_reduces else ReLUConvBN
    first = older(plan.channels_before_previous, plan.channels, affine)
    return first, ReLUConvBN(plan.channels_previous, plan.channels, affine)


def depthwise_block(
    channels: int, kernel: int, stride: int, dilation: int, affine: bool
) -> list[nn.Module]:
    """ReLU, depthwise convolution with 'same' padding, pointwise convolution, normalisation."""
    depthwise = Depthwise(channels, kernel, stride, dilation)
    pointwise = nn.Conv2d(channels, channels, 1, bias=False)
    return [nn.ReLU(), depthwise, pointwise, batch_norm(channels, affine)]


class SeparableConv(Block):
    """`sep_conv`: the depthwise-separable block applied twice; only the first has the stride."""

    def __init__(self, channels: int, kernel: int, stride: int, affine: bool) -> None:
        first = depthwise_block(channels, kernel, stride, dilation=1, affine=affine)
        second = depthwise_block(channels, kernel, stride=1, dilation=1, affine=affine)
        super().__init__(*first, *second)


class DilatedConv(Block):
    """`dil_conv`: one depthwise-separable block with dilation 2, a 3x3 kernel sees 5x5 pixels."""

    def __init__(self, channels: int, kernel: int, stride: int, affine: bool) -> None:
        super().__init__(*depthwise_block(channels, kernel, stride, dilation=2, affine=affine))


class Conv7x1And1x7(Block):
    """`conv_7x1_1x7`: a 1x7 then a 7x1 full convolution (NASNet and AmoebaNet only)."""

    def __init__(self, channels: int, stride: int, affine: bool) -> None:
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(channels, channels, (1, 7), (1, stride), (0, 3), bias=False),
            nn.Conv2d(channels, channels, (7, 1), (stride, 1), (3, 0), bias=False),
            batch_norm(channels, affine),
        )


def _skip(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine)


OPERATIONS: dict[str, Build] = {
    "none": lambda channels, stride, affine: Zero(stride),
    "max_pool_3x3": lambda channels, stride, affine: nn.MaxPool2d(3, stride, 1),
    # Zeros of the padding are not pictures: they are left out of the mean.
    "avg_pool_3x3": lambda channels, stride, affine: nn.AvgPool2d(
        3, stride, 1, count_include_pad=False
    ),
    "skip_connect": _skip,
    "sep_conv_3x3": lambda channels, stride, affine: SeparableConv(channels, 3, stride, affine),
    "sep_conv_5x5": lambda channels, stride, affine: SeparableConv(channels, 5, stride, affine),
    "sep_conv_7x7": lambda channels, stride, affine: SeparableConv(channels, 7, stride, affine),
    "dil_conv_3x3": lambda channels, stride, affine: DilatedConv(channels, 3, stride, affine),
    "dil_conv_5x5": lambda channels, stride, affine: DilatedConv(channels, 5, stride, affine),
    "conv_7x1_1x7": Conv7x1And1x7,
}
"""Every operation by name; `add_operation` takes one of your own."""


def add_operation(name: str, build: Build) -> None:
    """Add an operation of your own: it can then be searched, derived, drawn, trained and counted.

    Adding it again replaces it. Raises ValueError for a name of the library's own operations.
    """
    if name not in OWN_PRIMITIVES:
        if name in OPERATIONS:
            raise ValueError(f"the operation {name!r} is there already; choose another name.")
        OWN_PRIMITIVES.append(name)
    OPERATIONS[name] = build


def build_operation(
    name: str, channels: int, stride: int, affine: bool, pool_norm: bool = False
) -> nn.Module:
    """Build one operation; an unknown name is refused with the nearest known one.

    So is one that puts out another shape than its neighbours on the edge: the sum of a mixed
    operation would fail later, naming nobody. With `pool_norm` a pool ends in a normalisation.
    """
    if name not in OPERATIONS:
        raise ValueError(unknown("primitive", name, OPERATIONS))
    _check_shape(name, OPERATIONS[name], channels, stride)
    operation = OPERATIONS[name](channels, stride, affine)
    if pool_norm and name in ("max_pool_3x3", "avg_pool_3x3"):
        return nn.Sequential(operation, batch_norm(channels, affine))
    return operation


@cache
def _check_shape(name: str, build: Build, channels: int, stride: int) -> None:
    """Raise ValueError if an operation breaks the rule above; `meta` tensors have only a shape."""
    image = (2, channels, 7, 6)
    with torch.device("meta"), torch.no_grad():
        shape = tuple(build(channels, stride, True)(torch.empty(image)).shape)
    wanted = (2, channels, *(-(-side // stride) for side in image[2:]))
    if shape != wanted:
        raise ValueError(
            f"operation {name!r} at stride {stride} turns {image} into {shape}, not {wanted}: keep "
            "the channels, and pad so that a side becomes ceil(side / stride)."
        )


def build_candidate(name: str, channels: int, stride: int) -> nn.Module:
    """Build one operation for the search: without gain, and pools normalised like the rest.

    A convolution ends in a normalisation. A pool without one would be on another scale than its
    rivals, and the softmax would compare unlike things.
    """
    return build_operation(name, channels, stride, affine=False, pool_norm=True)
