"""Published weights into our networks, our networks into files others read, and their test error.

    python -m darts_lib.checkpoints evaluate FILE [--genotype DARTS_V2] [--data data]
    python -m darts_lib.checkpoints evaluate FILE --data data/imagenet --workers 8  # ImageNet's
    python -m darts_lib.checkpoints export FILE --onnx OUT [--genotype DARTS_V2]

The shape of the network is read from the weights themselves. Known files: the original's CIFAR-10
and ImageNet state dicts, MMRazor's subnets, and what `retrain` writes.
"""

import argparse
import contextlib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from darts_lib.cell_choice import find_genotype
from darts_lib.devices import resolve_device
from darts_lib.genotype import Genotype, GenotypeError
from darts_lib.imagenet_data import PictureFiles, find_pictures, read_batches
from darts_lib.imagenet_network import ImageNetNetwork
from darts_lib.images import ImageSet, epoch_batches, load_images
from darts_lib.mmrazor_names import as_main, mmrazor_names
from darts_lib.network import CellStack, Network
from darts_lib.onnx_files import export_onnx
from darts_lib.places import data_root
from darts_lib.refusals import SettingsError
from darts_lib.retrain_epoch import evaluate, tested
from darts_lib.weight_files import load_weights, read_weights

VAL_BATCH = 96
"""Pictures a batch at the test of an ImageNet network; no figure depends on it."""


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


def test_errors(net: CellStack, dataset: str, data: Path, device: str) -> tuple[float, float]:
    """Return the top-1 and top-5 errors (0 to 1) on a data set's test images."""
    where = resolve_device(device)
    images = load_images(dataset, data, "test").to(where)
    _check_fit(net, images, dataset)
    found = evaluate(net.to(where), images)
    return 1 - found["top1"], 1 - found["top5"]


def val_errors(
    net: ImageNetNetwork, data: Path, size: int, workers: int, device: str
) -> tuple[float, float]:
    """Return the top-1 and top-5 errors (0 to 1) on the `val` pictures, `size` pixels square."""
    where = resolve_device(device)
    _, files = find_pictures(data, size)
    _check_fit(net, files, data)
    reading = read_batches(files, epoch_batches(len(files), VAL_BATCH, None), workers, where)
    with contextlib.closing(reading):
        found = tested(net.to(where), reading)
    return 1 - found["top1"], 1 - found["top5"]


def _check_fit(net: CellStack, images: ImageSet | PictureFiles, source: object) -> None:
    """Refuse images of another number of classes or channels than the network's."""
    classes, channels = net.classifier.out_features, next(net.parameters()).shape[1]
    if (len(images.classes), images.channels) != (classes, channels):
        raise SettingsError(
            f"the network tells {classes} classes apart in images of {channels} channels, but "
            f"{source} has {len(images.classes)} and {images.channels}; give another --dataset "
            "or --data."
        )


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return 0, or 2 after one line that says what was wrong."""
    given = _parser().parse_args(arguments)
    try:
        cell = find_genotype(given.genotype) if given.genotype else None
        expected = {n: getattr(given, n) for n in ("channels", "layers", "auxiliary")}
        net, cell = load_network(given.file, cell, **expected)
        if given.command == "export":
            channels = next(net.parameters()).shape[1]
            export_onnx(net, given.onnx, (channels, given.size, given.size))
            print(f"written: {given.onnx}")
        else:
            top1, top5 = _errors(net, given)
            print(f"{cell}")
            print(f"top-1 error {100 * top1:.2f} %, top-5 error {100 * top5:.2f} %")
    except (SettingsError, GenotypeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _errors(net: CellStack, given: argparse.Namespace) -> tuple[float, float]:
    """Test a network on what the command line names; the network's form tells which kind."""
    if isinstance(net, ImageNetNetwork):
        if given.dataset not in ("", "folder"):
            raise SettingsError(
                f"{given.file} has the ImageNet form, which is not for --dataset {given.dataset}: "
                "leave it out, and give --data FOLDER with train and val."
            )
        data = given.data or data_root() / "imagenet"
        return val_errors(net, data, given.size, given.workers, given.device)
    return test_errors(net, given.dataset or "cifar10", given.data or data_root(), given.device)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m darts_lib.checkpoints")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, purpose in (("evaluate", "test error of saved weights"), ("export", "as ONNX")):
        command = commands.add_parser(name, help=purpose)
        command.add_argument("file", type=Path)
        command.add_argument("--genotype", default="", help="needed if the file carries none")
        command.add_argument("--channels", type=int, help="refuse a file of another width")
        command.add_argument("--layers", type=int, help="refuse a file of another depth")
        command.add_argument(
            "--auxiliary", action="store_true", default=None, help="refuse a file without the head"
        )
        if name == "evaluate":
            command.add_argument("--dataset", default="", help="cifar10 if left out")
            command.add_argument("--data", type=Path, help="the folder of the data")
            command.add_argument("--device", default="auto")
            command.add_argument(
                "--size", type=int, default=224, help="of ImageNet pictures, in pixels"
            )
            command.add_argument("--workers", type=int, default=0, help="that read those pictures")
        else:
            command.add_argument("--onnx", type=Path, required=True)
            command.add_argument("--size", type=int, default=32, help="of the images, in pixels")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
