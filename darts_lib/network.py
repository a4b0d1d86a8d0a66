"""Derived networks: a stem, the cells of a genotype, a global average and a linear classifier.

Source: DARTS paper, section 3.2 and appendix A.2; layer by layer, its code.
"""

import torch
from torch import Tensor, nn

from darts_lib.genotype import Genotype
from darts_lib.kernels.averages import global_average, quarters
from darts_lib.kernels.branches import together
from darts_lib.operations import build_operation, preprocess
from darts_lib.search_space import INPUTS, KINDS, CellPlan, Stem, plan_cells, reductions


def drop_path(x: Tensor, probability: Tensor) -> Tensor:
    """Zero each image of `(batch, channels, h, w)` with a 0-dim probability; scale up the rest."""
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

        x_j  =  o_1(x_i1) + o_2(x_i2)                                   paper, section 2.1 and 2.4

    `pool_norm` puts a normalisation after each pool, as MMRazor does and the paper does not.
    """

    def __init__(self, genotype: Genotype, plan: CellPlan, pool_norm: bool = False) -> None:
        super().__init__()
        self.preprocess0, self.preprocess1 = preprocess(plan, affine=True)
        pairs, self.concat = genotype.pairs(plan.kind), genotype.concat(plan.kind)
        self.sources = [source for _, source in pairs]
        strides = [2 if plan.reduces and source < INPUTS else 1 for source in self.sources]
        self._ops = nn.ModuleList(
            build_operation(name, plan.channels, stride, True, pool_norm)
            for (name, _), stride in zip(pairs, strides, strict=True)
        )

    def forward(self, before_previous: Tensor, previous: Tensor, dropped: Tensor | None) -> Tensor:
        """Return `(batch, len(concat) * channels, h, w)`; `dropped` is a probability, or None.

        `together` runs modules on their tensors: on a GPU at the same time, else one by one.
        """
        states = together((self.preprocess0, before_previous), (self.preprocess1, previous))
        paths = None if dropped is None else kept_paths(len(self.sources), states[0], dropped)
        for i in range(0, len(self.sources), 2):
            heard = [(self._ops[edge], states[self.sources[edge]]) for edge in (i, i + 1)]
            edge_1, edge_2 = together(*heard)
            states.append(self._kept(edge_1, i, paths) + self._kept(edge_2, i + 1, paths))
        return torch.cat([states[state] for state in self.concat], dim=1)

    def _kept(self, out: Tensor, edge: int, paths: Tensor | None) -> Tensor:
        """Drop a path; an identity never, a skip that halves the image like all others."""
        if paths is None or isinstance(self._ops[edge], nn.Identity):
            return out
        return out * paths[edge].to(out.dtype)


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
        return self.classifier(self.features[2:](x).flatten(1))


class CellStack(nn.Module):
    """What all derived networks share: cells above a stem, and what becomes of their output.

    A subclass makes its stem, adds the cells and the two classifiers, in this order, and says in
    `run_stem` what the first cell reads. `drop_path` is the probability in use, in training only:
    None, as at first, or a 0-dim tensor on the device, that a recorded or compiled step can follow.
    Parameters have the names of the original code, so that its weights can be read.
    """

    auxiliary_head: AuxiliaryHead | None
    classifier: nn.Linear

    def __init__(self) -> None:
        super().__init__()
        self.drop_path: Tensor | None = None

    def add_cells(
        self, genotype: Genotype, channels: int, layers: int, stem: Stem, pool_norm: bool = False
    ) -> tuple[int, int]:
        """Build the cells; return the channels that the auxiliary head and the classifier read."""
        concat_sizes = {kind: len(genotype.concat(kind)) for kind in KINDS}
        plans = plan_cells(channels, layers, concat_sizes, stem)
        self.cells = nn.ModuleList(Cell(genotype, plan, pool_norm) for plan in plans)
        self.auxiliary_after = reductions(layers)[-1]
        widths = [plan.channels * concat_sizes[plan.kind] for plan in plans]
        return widths[self.auxiliary_after], widths[-1]

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
    """The network of a genotype for small images of any size; `pool_norm` is that of its cells."""

    def __init__(
        self,
        genotype: Genotype,
        channels: int = 36,
        layers: int = 20,
        classes: int = 10,
        in_channels: int = 3,
        auxiliary: bool = False,
        pool_norm: bool = False,
    ) -> None:
        super().__init__()
        width = 3 * channels
        convolution = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.stem = nn.Sequential(convolution, nn.BatchNorm2d(width))
        early, last = self.add_cells(genotype, channels, layers, Stem((width, width)), pool_norm)
        self.auxiliary_head = AuxiliaryHead(early, classes) if auxiliary else None
        self.classifier = nn.Linear(last, classes)

    def run_stem(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the stem's output twice: the first cell reads it as both of its inputs."""
        stem: Tensor = self.stem(images)
        return stem, stem


def halve(channels_in: int, channels: int) -> list[nn.Module]:
    """Return a 3x3 convolution to `(batch, channels, ceil(h / 2), ceil(w / 2))`, normalised."""
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
        half = channels // 2
        self.stem0 = nn.Sequential(*halve(3, half), nn.ReLU(), *halve(half, channels))
        self.stem1 = nn.Sequential(nn.ReLU(), *halve(channels, channels))
        early, last = self.add_cells(genotype, channels, layers, Stem((channels, channels), True))
        # The original left the head's last normalisation out by accident; its weights have none.
        self.auxiliary_head = AuxiliaryHead(early, classes, 7, False) if auxiliary else None
        self.classifier = nn.Linear(last, classes)

    def run_stem(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return `(batch, channels, h, w)` at a quarter and at an eighth of the image's size."""
        quarter: Tensor = self.stem0(images)
        return quarter, self.stem1(quarter)
