"""The test error of saved weights, ours or published ones, and their export for other tools.

    python -m darts_lib.checkpoints evaluate RUN_FOLDER
    python -m darts_lib.checkpoints evaluate FILE --genotype DARTS_V2 --dataset cifar10
    python -m darts_lib.checkpoints evaluate IMAGENET_FILE --data-root data/imagenet --workers 8
    python -m darts_lib.checkpoints export FILE --onnx OUT [--genotype DARTS_V2]

`formats.network_files` says which files are known. Weights that a run has written know its data:
they are tested on that data set, with the mean, deviation and size of the run; classes are matched
by name, and exported with the network.
"""

import contextlib
import math
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from darts_lib.data.description import PictureData
from darts_lib.data.imagenet_data import find_pictures, read_batches
from darts_lib.data.images import load_images
from darts_lib.engine.batches import epoch_batches
from darts_lib.engine.command_line import path_argument, run_command
from darts_lib.engine.devices import resolve_device
from darts_lib.engine.files import check_target, is_there
from darts_lib.engine.opening import stored_settings
from darts_lib.engine.progress import counted
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.settings import SHAPES, data_root
from darts_lib.formats.cell_choice import find_genotype
from darts_lib.formats.network_files import load_network
from darts_lib.formats.onnx_files import export_onnx
from darts_lib.formats.weight_files import describe
from darts_lib.genotype import Genotype
from darts_lib.network import CellStack, ImageNetNetwork
from darts_lib.retrain import errors_line, evaluate, tested

SIZES = {"digits": 8, "fashion_mnist": 28}
"""The side of the pictures of data sets that have another than CIFAR's 32, in pixels."""


def main(arguments: Sequence[str]) -> None:
    """Run the command line; `run_command` tells in a line what was wrong."""
    given = _parser().parse_args(arguments)
    given.run(given)


def _export(given: Namespace) -> None:
    check_target(given.onnx)
    net, cell, data = _load(given)
    usual = 224 if isinstance(net, ImageNetNetwork) else SIZES.get(data.dataset, 32)
    size = (given.size,) * 2 if given.size else data.size if any(data.size) else (usual,) * 2
    metadata = data.model_dump(mode="json") if data.classes else {}
    metadata |= {"size": size, "genotype": str(cell)}
    export_onnx(net, given.onnx, (data.channels, *size), metadata)
    print(f"written: {given.onnx}, for pictures of {size[0]}x{size[1]} pixels")


def _evaluate(given: Namespace) -> None:
    if given.data_root and not given.data_root.is_dir():
        raise SettingsError(f"--data-root {given.data_root} is not there; name a folder.")
    net, cell, data = _load(given)
    test = _test_pictures if isinstance(net, ImageNetNetwork) else _test_images
    shares = test(net, given, data)
    if not math.isfinite(shares["loss"]):  # no logit is then the largest
        raise SettingsError(
            f"the logits of {given.file} are no numbers: its weights are too large."
        )
    print(cell)
    print(errors_line(1 - shares["top1"], 1 - shares["top5"], net.classifier.out_features))


def _load(given: Namespace) -> tuple[CellStack, Genotype, PictureData]:
    """Return the network, its cell, and what is known of the pictures that it was trained on."""
    cell = find_genotype(given.genotype) if given.genotype else None
    net, cell = load_network(
        given.file, cell, channels=given.channels, layers=given.layers, auxiliary=given.auxiliary
    )
    least = 64 if isinstance(net, ImageNetNetwork) else 1
    if given.size is not None and not least <= given.size <= 10_000:
        raise SettingsError(
            f"--size {given.size}: it must be {least} to 10,000 pixels; leave it out for the "
            "network's own."
        )
    classes, channels = net.classifier.out_features, next(net.parameters()).shape[1]
    if not (known := describe(given.file)):
        stored = _settings_beside(given.file)
        known = {"dataset": stored.get("dataset", "cifar10"), "classes": (), "mean": (), "std": ()}
        known |= {"channels": channels, "size": (stored.get("image_size", 0),) * 2}
    try:
        data = PictureData.create(**known)
    except SettingsError as error:
        raise SettingsError(f"{given.file} tells of impossible data: {error}") from error
    if data.classes and (len(data.classes), data.channels) != (classes, channels):
        raise SettingsError(
            f"{given.file} tells of {len(data.classes)} classes and {data.channels} channels, "
            f"its weights of {classes} and {channels}; write it again."
        )
    return net, cell, data


def _test_pictures(net: CellStack, given: Namespace, known: PictureData) -> dict[str, float]:
    """Return the accuracies of a network of the ImageNet form on a folder's `val` pictures."""
    if given.dataset not in ("", "folder"):
        raise SettingsError(
            f"{given.file} has the ImageNet form, which is not for --dataset {given.dataset}: "
            "leave it out, and give --data-root FOLDER with train and val."
        )
    data, device = given.data_root or data_root() / "imagenet", resolve_device(given.device)
    _, files = find_pictures(data, given.size or known.size[0] or 224, scale=known.pixels)
    labels = known.numbers(files.classes, files.labels, data)
    files = replace(files, labels=labels, classes=known.classes or files.classes)
    _check_fit(net, len(files.classes), files.channels, data)
    batches = epoch_batches(len(files), 96, None)  # no figure depends on the size
    with contextlib.closing(read_batches(files, batches, given.workers, device)) as reading:
        return tested(net.to(device), reading)


def _test_images(net: CellStack, given: Namespace, known: PictureData) -> dict[str, float]:
    """Return the accuracies of a network on the test images of a data set."""
    dataset, root = given.dataset or known.dataset, given.data_root or data_root()
    if dataset == "folder" and not given.data_root:
        raise SettingsError("these pictures lie in a folder: name it with --data-root FOLDER.")
    print(f"testing on {dataset}" + ("" if given.dataset else "; --dataset names another"))
    device = resolve_device(given.device)
    if dataset in SHAPES:  # before anything is downloaded
        _check_fit(net, *SHAPES[dataset], dataset)
    images = load_images(dataset, root, "test", given.size or 0, like=known).to(device)
    _check_fit(net, len(images.classes), images.channels, dataset)
    return evaluate(net.to(device), images)


def _check_fit(net: CellStack, classes: int, channels: int, source: object) -> None:
    """Refuse images of another number of classes or channels than the network's."""
    wanted = net.classifier.out_features, next(net.parameters()).shape[1]
    if wanted != (classes, channels):
        raise SettingsError(
            f"the network tells {wanted[0]} classes apart in images of "
            f"{counted(wanted[1], 'channel')}, but {source} has {classes} and {channels}; "
            "give another --dataset or --data-root."
        )


def _settings_beside(file: Path) -> Mapping[str, Any]:
    """Return the settings of a run folder, or of the one that a file of weights lies in, if any."""
    folder = file if file.is_dir() else file.parent
    with contextlib.suppress(SettingsError):  # weights may lie in any folder
        return stored_settings(folder) if is_there(folder / "config.json") else {}
    return {}


def _parser() -> ArgumentParser:
    common = ArgumentParser(add_help=False)
    option = common.add_argument
    option("file", type=path_argument, help="of weights, or a retraining's run folder")
    option("--genotype", default="", help="needed if the file carries none")
    option("--channels", type=int, help="refuse a file of another width")
    option("--layers", type=int, help="refuse a file of another depth")
    sizes = "of pictures, in pixels; if left out, the run's own, or 32, or 224 in the ImageNet form"
    option("--size", type=int, help=sizes)
    option("--auxiliary", action="store_const", const=True, help="refuse a file without the head")
    parser = ArgumentParser(prog="python -m darts_lib.checkpoints")
    commands = parser.add_subparsers(required=True)
    test = commands.add_parser("evaluate", parents=[common], help="test error of saved weights")
    test.set_defaults(run=_evaluate)
    option = test.add_argument
    option("--dataset", default="", help="if left out, that of the run folder, or cifar10")
    option("--data-root", "--data", type=path_argument, help="of the data sets, or pictures")
    option("--device", default="auto")
    option("--workers", type=int, default=0, help="that read those pictures")
    export = commands.add_parser("export", parents=[common], help="as ONNX")
    export.set_defaults(run=_export)
    export.add_argument("--onnx", type=path_argument, required=True)
    return parser


if __name__ == "__main__":
    run_command(main)
