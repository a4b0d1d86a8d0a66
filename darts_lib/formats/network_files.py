"""Networks from files of weights: the shape is read off the weights, the names are made ours.

Known files: the original's CIFAR-10 and ImageNet state dicts, MMRazor's subnets, and what `retrain`
writes.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from darts_lib.engine.refusals import SettingsError
from darts_lib.formats.mmrazor_names import as_main, mmrazor_names
from darts_lib.formats.weight_files import load_weights, read_weights
from darts_lib.genotype import Genotype
from darts_lib.imagenet_network import ImageNetNetwork
from darts_lib.network import CellStack, Network


@dataclass(frozen=True)
class Shape:
    """What a network's weights say of it."""

    channels: int
    layers: int
    classes: int
    in_channels: int
    auxiliary: bool
    pool_norm: bool
    imagenet: bool

    def build(self, genotype: Genotype) -> CellStack:
        """Return an untrained network of this shape."""
        if self.imagenet:
            return ImageNetNetwork(
                genotype, self.channels, self.layers, self.classes, self.auxiliary
            )
        return Network(
            genotype,
            self.channels,
            self.layers,
            self.classes,
            self.in_channels,
            self.auxiliary,
            pool_norm=self.pool_norm,
        )


def load_network(
    path: Path, genotype: Genotype | None = None, **expected: int | None
) -> tuple[CellStack, Genotype]:
    """Return the network of a file of weights, in evaluation mode, and its genotype.

    `expected` may name `channels`, `layers` or `auxiliary`; a file of another shape is refused.
    Raises SettingsError if the file carries no genotype and none is given, or does not fit it.
    """
    file = read_weights(path)
    cell = genotype or file.genotype
    if cell is None:
        raise SettingsError(f"{path} carries no genotype; name it, for example --genotype DARTS_V2")
    tensors = {as_main(name): value for name, value in file.tensors.items()}
    mmrazor = any(name.startswith("backbone.") for name in tensors)
    shape = _shape_of(path, tensors, mmrazor)
    for name, value in expected.items():
        if value is not None and value != getattr(shape, name):
            raise SettingsError(f"{path} has {name}={getattr(shape, name)}, not {value}.")
    net = shape.build(cell)
    if mmrazor:
        names = mmrazor_names(net.state_dict(), cell, shape.layers)
        own = {theirs: ours for ours, theirs in names.items()}
        tensors = {own.get(name, name): value for name, value in tensors.items()}
    load_weights(net, tensors, path)
    return net.eval(), cell


def _shape_of(path: Path, tensors: Mapping[str, Tensor], mmrazor: bool) -> Shape:
    """Read channels, layers and classes off the weights."""
    stem = "backbone.stem.0.weight" if mmrazor else "stem.0.weight"
    classifier = "head.fc.weight" if mmrazor else "classifier.weight"
    imagenet = "stem0.0.weight" in tensors
    cells = [int(found[1]) for name in tensors if (found := re.search(r"\bcells\.(\d+)\.", name))]
    first = tensors.get("stem0.0.weight" if imagenet else stem)
    if first is None or first.dim() != 4 or classifier not in tensors or not cells:
        raise SettingsError(
            f"{path} holds no derived network: it lacks {stem!r} (or 'stem0.0.weight'), "
            f"{classifier!r} or any cell; a supernet's weights are read by load_search."
        )
    if max(cells) >= len(tensors):  # else a name alone would make us build any number of cells
        raise SettingsError(f"{path} names cell {max(cells)} but holds {len(tensors)} weights.")
    return Shape(
        channels=2 * len(first) if imagenet else len(first) // 3,
        layers=1 + max(cells),
        classes=len(tensors[classifier]),
        in_channels=first.shape[1],
        auxiliary=any("aux" in name for name in tensors),
        pool_norm=any("pool" in name for name in tensors) or _has_pool_norm(tensors),
        imagenet=imagenet,
    )


def _has_pool_norm(tensors: Mapping[str, Tensor]) -> bool:
    """Say whether our own names have a normalisation right inside an operation: after a pool."""
    return any(re.search(r"_ops\.\d+\.1\.weight", name) for name in tensors)
