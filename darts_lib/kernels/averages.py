"""Averages of feature maps: of the whole map, which a classifier reads, and of its quarters."""

from torch import Tensor
from torch.nn import functional as F


def global_average(x: Tensor) -> Tensor:
    """Return each channel's mean over a map: `(batch, channels, h, w)` to `(batch, channels)`.

    Its gradient lies in memory as `x` does; that of `mean` does not, and everything backward up to
    the next copy would leave channels_last.
    """
    return F.avg_pool2d(x, x.shape[2:]).flatten(1)


def quarters(x: Tensor) -> Tensor:
    """Return the means of the four quarters of a map, `(batch, channels, 2, 2)`.

    Quarters of an odd side have its middle in common. The values are those of
    `adaptive_avg_pool2d(x, 2)`, which Apple's GPUs have for even sides only, and CUDA not at all
    where only deterministic algorithms are allowed.
    """
    height, width = (max(2, side) for side in x.shape[-2:])
    x = x.expand(-1, -1, height, width)  # a side of one is both halves
    return F.avg_pool2d(x, ((height + 1) // 2, (width + 1) // 2), (height // 2, width // 2))
