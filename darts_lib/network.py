"""Derived networks: the cells of a genotype stacked, with auxiliary head and drop path.

The form for small images (CIFAR): stem, `layers` cells, global average, linear classifier.
Source: DARTS paper, section 3.2 and appendix A.1.2.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from darts_lib.genotype import Genotype
from darts_lib.operations import FactorizedReduce, ReLUConvBN, build_operation
from darts_lib.search_space import INPUTS, KINDS, CellPlan, Stem, plan_cells, reductions

AUXILIARY_SIDE = 8
"""The feature map that the published auxiliary head was made for is 8x8."""


def drop_path(x: Tensor, probability: Tensor) -> Tensor:
    """Zero each image of `(batch, channels, h, w)` with a probability, and scale up the others.

    `probability` is a 0-dim tensor on the device: a recorded or compiled step can follow it.
    """
    keep = 1 - probability
    kept = torch.rand(len(x), 1, 1, 1, device=x.device) < keep
    return x * (kept / keep).to(x.dtype)


class Cell(nn.Module):
    """A discrete cell: each node adds the two operations that the genotype gives it."""

    def __init__(self, genotype: Genotype, plan: CellPlan) -> None:
        super().__init__()
        reduce_first = FactorizedReduce if plan.previous_reduces else ReLUConvBN
        self.preprocess0 = reduce_first(plan.channels_before_previous, plan.channels, affine=True)
        self.preprocess1 = ReLUConvBN(plan.channels_previous, plan.channels, affine=True)
        pairs, self.concat = genotype.pairs(plan.kind), genotype.concat(plan.kind)
        self.sources = [source for _, source in pairs]
        self._ops = nn.ModuleList(
            build_operation(
                name, plan.channels, 2 if plan.reduces and source < INPUTS else 1, affine=True
            )
            for name, source in pairs
        )

    def forward(self, before_previous: Tensor, previous: Tensor, dropped: Tensor | None) -> Tensor:
        """Return `(batch, len(concat) * channels, h, w)`; `dropped` is a probability, or None."""
        states = [self.preprocess0(before_previous), self.preprocess1(previous)]
        for i in range(0, len(self.sources), 2):
            first = self._edge(i, states, dropped)
            states.append(first + self._edge(i + 1, states, dropped))
        return torch.cat([states[state] for state in self.concat], dim=1)

    def _edge(self, i: int, states: list[Tensor], dropped: Tensor | None) -> Tensor:
        operation = self._ops[i]
        out: Tensor = operation(states[self.sources[i]])
        # An identity is never dropped; a skip that halves the image is, as in the original.
        if dropped is None or isinstance(operation, nn.Identity):
            return out
        return drop_path(out, dropped)


class AuxiliaryHead(nn.Module):
    """A second classifier two thirds of the way, whose loss helps to train the first cells.

    On an 8x8 map the published pooling (5x5, stride 3); on any other size an adaptive pooling to
    the same 2x2.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.ReLU(),
            nn.AvgPool2d(5, stride=3, padding=0, count_include_pad=False),
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            nn.BatchNorm2d(768),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(768, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(batch, classes)` from a map `(batch, channels, h, w)`."""
        x = self.features[0](x)
        if tuple(x.shape[-2:]) == (AUXILIARY_SIDE, AUXILIARY_SIDE):
            x = self.features[1](x)
        else:
            x = F.adaptive_avg_pool2d(x, 2)
        logits: Tensor = self.classifier(self.features[2:](x).flatten(1))
        return logits


class Network(nn.Module):
    """The network of a genotype for small images of any size.

    `drop_path` is the probability in use, a 0-dim tensor, or None, as at first; it acts in training
    only.
    Parameter names are those of the original code, so that its weights can be read.
    """

    def __init__(
        self,
        genotype: Genotype,
        channels: int = 36,
        layers: int = 20,
        classes: int = 10,
        in_channels: int = 3,
        auxiliary: bool = False,
        stem_multiplier: int = 3,
    ) -> None:
        super().__init__()
        self.drop_path: Tensor | None = None
        width = stem_multiplier * channels
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        )
        concat_sizes = {kind: len(genotype.concat(kind)) for kind in KINDS}
        plans = plan_cells(channels, layers, concat_sizes, Stem((width, width)))
        widths = [plan.channels * concat_sizes[plan.kind] for plan in plans]
        self.cells = nn.ModuleList(Cell(genotype, plan) for plan in plans)
        self.auxiliary_after = reductions(layers)[-1]
        self.auxiliary_head = (
            AuxiliaryHead(widths[self.auxiliary_after], classes) if auxiliary else None
        )
        self.classifier = nn.Linear(widths[-1], classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return (logits, auxiliary logits) for `(batch, in_channels, height, width)`.

        Logits are `(batch, classes)`; the auxiliary ones are None in evaluation or without a head.
        """
        auxiliary = None
        dropped = self.drop_path if self.training else None
        before = previous = self.stem(images)
        for index, cell in enumerate(self.cells):
            before, previous = previous, cell(before, previous, dropped)
            if index == self.auxiliary_after and self.auxiliary_head and self.training:
                auxiliary = self.auxiliary_head(previous)
        return self.classifier(previous.mean(dim=(2, 3))), auxiliary
