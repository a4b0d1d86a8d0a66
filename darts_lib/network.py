"""Derived networks: the cells of a genotype stacked, with auxiliary head and drop path.

A network is a stem, `layers` cells, a global average and a linear classifier. `Network` is the form
for small images (CIFAR); the one for ImageNet is in `imagenet_network.py`.
Source: DARTS paper, section 3.2 and appendix A.2.1.
"""

from functools import partial

import torch
from torch import Tensor, nn

from darts_lib.genotype import Genotype
from darts_lib.kernels.averages import global_average, quarters
from darts_lib.kernels.branches import side_by_side
from darts_lib.operations import FactorizedReduce, ReLUConvBN, build_operation
from darts_lib.search_space import INPUTS, KINDS, CellPlan, Stem, plan_cells, reductions


def drop_path(x: Tensor, probability: Tensor) -> Tensor:
    """Zero each image of `(batch, channels, h, w)` with a probability, and scale up the others.

    `probability` is a 0-dim tensor on the device: a recorded or compiled step can follow it.
    """
    return x * kept_paths(1, x, probability)[0]


def kept_paths(paths: int, x: Tensor, probability: Tensor) -> Tensor:
    """Draw what each path does to each image of `x`: times 0, or 1 / (1 - probability).

    Returns `(paths, batch, 1, 1, 1)`. Drawn together, all paths cost what one does.
    """
    keep = 1 - probability
    kept = torch.rand(paths, len(x), 1, 1, 1, device=x.device) < keep
    return (kept / keep).to(x.dtype)


class Cell(nn.Module):
    """A discrete cell: each node adds the two operations that the genotype gives it.

    `pool_norm` puts a normalisation after each pool, as MMRazor does and the paper does not.
    """

    def __init__(self, genotype: Genotype, plan: CellPlan, pool_norm: bool = False) -> None:
        super().__init__()
        reduce_first = FactorizedReduce if plan.previous_reduces else ReLUConvBN
        self.preprocess0 = reduce_first(plan.channels_before_previous, plan.channels, affine=True)
        self.preprocess1 = ReLUConvBN(plan.channels_previous, plan.channels, affine=True)
        pairs, self.concat = genotype.pairs(plan.kind), genotype.concat(plan.kind)
        self.sources = [source for _, source in pairs]
        self._ops = nn.ModuleList(
            build_operation(
                name,
                plan.channels,
                2 if plan.reduces and source < INPUTS else 1,
                affine=True,
                pool_norm=pool_norm,
            )
            for name, source in pairs
        )

    def forward(self, before_previous: Tensor, previous: Tensor, dropped: Tensor | None) -> Tensor:
        """Return `(batch, len(concat) * channels, h, w)`; `dropped` is a probability, or None."""
        first = partial(self.preprocess0, before_previous)
        second = partial(self.preprocess1, previous)
        states = side_by_side([first, second], [before_previous, previous])
        kept = None if dropped is None else kept_paths(len(self.sources), states[0], dropped)
        drawn = [] if kept is None else [kept]
        for i in range(0, len(self.sources), 2):
            pair = [partial(self._edge, i + j, states, kept) for j in range(2)]
            states.append(torch.add(*side_by_side(pair, [*states, *drawn])))
        return torch.cat([states[state] for state in self.concat], dim=1)

    def _edge(self, i: int, states: list[Tensor], kept: Tensor | None) -> Tensor:
        operation = self._ops[i]
        out: Tensor = operation(states[self.sources[i]])
        # An identity is never dropped; a skip that halves the image is, as in the original.
        if kept is None or isinstance(operation, nn.Identity):
            return out
        return out * kept[i].to(out.dtype)


class AuxiliaryHead(nn.Module):
    """A second classifier two thirds of the way, whose loss helps to train the first cells.

    It was made for maps of `side` x `side`: there the published pooling takes a 5x5 window in each
    corner; on a map of any other size the windows are its four quarters. The head for ImageNet goes
    without the last normalisation (`last_norm`).
    """

    def __init__(self, channels: int, classes: int, side: int = 8, last_norm: bool = True) -> None:
        super().__init__()
        self.side = side
        self.features = nn.Sequential(
            nn.ReLU(),
            nn.AvgPool2d(5, stride=side - 5, padding=0, count_include_pad=False),
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            *([nn.BatchNorm2d(768)] if last_norm else []),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(768, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(batch, classes)` from a map `(batch, channels, h, w)`."""
        x = self.features[0](x)
        published = tuple(x.shape[-2:]) == (self.side, self.side)
        x = self.features[1](x) if published else quarters(x)
        logits: Tensor = self.classifier(self.features[2:](x).flatten(1))
        return logits


class CellStack(nn.Module):
    """What all derived networks share: cells above a stem, and what becomes of their output.

    A subclass makes its stem, adds the cells and the two classifiers, in this order, and says in
    `run_stem` what the first cell reads.
    `drop_path` is the probability in use, a 0-dim tensor, or None, as at first; it acts in training
    only.
    Parameter names are those of the original code, so that its weights can be read.
    """

    auxiliary_head: AuxiliaryHead | None
    classifier: nn.Linear

    def __init__(self) -> None:
        super().__init__()
        self.drop_path: Tensor | None = None

    def add_cells(
        self, genotype: Genotype, channels: int, layers: int, stem: Stem, pool_norm: bool = False
    ) -> list[int]:
        """Build the cells and return how many channels each puts out."""
        concat_sizes = {kind: len(genotype.concat(kind)) for kind in KINDS}
        plans = plan_cells(channels, layers, concat_sizes, stem)
        self.cells = nn.ModuleList(Cell(genotype, plan, pool_norm) for plan in plans)
        self.auxiliary_after = reductions(layers)[-1]
        return [plan.channels * concat_sizes[plan.kind] for plan in plans]

    def run_stem(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two inputs of the first cell, `(batch, channels, h, w)` each."""
        raise NotImplementedError(f"{type(self).__name__} has no stem: define run_stem.")

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return (logits, auxiliary logits) for `(batch, in_channels, height, width)`.

        Logits are `(batch, classes)`; the auxiliary ones are None in evaluation or without a head.
        """
        auxiliary = None
        dropped = self.drop_path if self.training else None
        before, previous = self.run_stem(images)
        for index, cell in enumerate(self.cells):
            before, previous = previous, cell(before, previous, dropped)
            if index == self.auxiliary_after and self.auxiliary_head and self.training:
                auxiliary = self.auxiliary_head(previous)
        return self.classifier(global_average(previous)), auxiliary


class Network(CellStack):
    """The network of a genotype for small images of any size.

    `pool_norm` puts a normalisation after each pool: the form of MMRazor's published weights.
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
        pool_norm: bool = False,
    ) -> None:
        super().__init__()
        width = stem_multiplier * channels
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        )
        widths = self.add_cells(genotype, channels, layers, Stem((width, width)), pool_norm)
        self.auxiliary_head = (
            AuxiliaryHead(widths[self.auxiliary_after], classes) if auxiliary else None
        )
        self.classifier = nn.Linear(widths[-1], classes)

    def run_stem(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the stem's output twice: the first cell reads it as both of its inputs."""
        stem: Tensor = self.stem(images)
        return stem, stem
