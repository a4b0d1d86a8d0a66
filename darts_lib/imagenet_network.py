"""The derived network for ImageNet: a stem that reduces the image eightfold, then the cells.

It shares the cells and the forward pass with the form for small images in `network.py`; stem and
auxiliary head differ. Source: DARTS paper, section 3.2 (mobile setting); layer by layer, its code.
"""

from torch import Tensor, nn

from darts_lib.genotype import Genotype
from darts_lib.network import AuxiliaryHead, CellStack
from darts_lib.search_space import Stem


def halve(channels_in: int, channels: int) -> list[nn.Module]:
    """Return a 3x3 convolution of stride 2 and its normalisation.

    They map `(batch, channels_in, h, w)` to `(batch, channels, ceil(h / 2), ceil(w / 2))`.
    """
    convolution = nn.Conv2d(channels_in, channels, 3, stride=2, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(channels)]


class ImageNetNetwork(CellStack):
    """The network of a genotype for large images; 224 x 224 in the paper, any size from 64 up.

    The first cell reads a quarter of the image's size and an eighth of it, so its first input is
    reduced as after a reduction cell. On 224 pixels the cells run at 28, 14 and 7.
    The auxiliary head was made for the 7x7 map after the second reduction.
    """

    def __init__(
        self,
        genotype: Genotype,
        channels: int = 48,
        layers: int = 14,
        classes: int = 1000,
        auxiliary: bool = False,
    ) -> None:
        super().__init__()
        self.stem0 = nn.Sequential(
            *halve(3, channels // 2), nn.ReLU(), *halve(channels // 2, channels)
        )
        self.stem1 = nn.Sequential(nn.ReLU(), *halve(channels, channels))
        widths = self.add_cells(genotype, channels, layers, Stem((channels, channels), True))
        # The original left the head's last normalisation out by accident; its weights have none.
        self.auxiliary_head = (
            AuxiliaryHead(widths[self.auxiliary_after], classes, side=7, last_norm=False)
            if auxiliary
            else None
        )
        self.classifier = nn.Linear(widths[-1], classes)

    def run_stem(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return `(batch, channels, h, w)` at a quarter and at an eighth of the image's size."""
        quarter: Tensor = self.stem0(images)
        eighth: Tensor = self.stem1(quarter)
        return quarter, eighth
