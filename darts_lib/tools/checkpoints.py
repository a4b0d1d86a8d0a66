"""The test error of saved weights, ours or published ones, and their export for other tools.

    python -m darts_lib.checkpoints evaluate RUN_FOLDER
    python -m darts_lib.checkpoints evaluate FILE --genotype DARTS_V2 --dataset cifar10
    python -m darts_lib.checkpoints evaluate IMAGENET_FILE --data-root data/imagenet --workers 8
    python -m darts_lib.checkpoints export FILE --onnx OUT [--genotype DARTS_V2]

`formats.network_files` says which files are known. The weights in a run folder are tested on the
data set that the run was made with.
"""

import contextlib
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from darts_lib.data.imagenet_data import find_pictures, read_batches
from darts_lib.data.images import load_images
from darts_lib.engine.batches import epoch_batches
from darts_lib.engine.devices import resolve_device
from darts_lib.engine.files import check_target
from darts_lib.engine.opening import stored_settings
from darts_lib.engine.progress import counted
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.settings import SHAPES, data_root
from darts_lib.formats.cell_choice import find_genotype
from darts_lib.formats.network_files import load_network
from darts_lib.formats.onnx_files import export_onnx
from darts_lib.genotype import Genotype, GenotypeError
from darts_lib.network import CellStack, ImageNetNetwork
from darts_lib.retrain import errors_line, evaluate, tested


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return 0, or 2 after one line that says what was wrong."""
    given = _parser().parse_args(arguments)
    try:
        given.run(given)
    except (SettingsError, GenotypeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _export(given: Namespace) -> None:
    check_target(given.onnx)
    net, _ = _load(given)
    channels = next(net.parameters()).shape[1]
    export_onnx(net, given.onnx, (channels, given.size, given.size))
    print(f"written: {given.onnx}")


def _evaluate(given: Namespace) -> None:
    if given.data_root and not given.data_root.is_dir():
        raise SettingsError(f"--data-root {given.data_root} is not there; name a folder.")
    net, cell = _load(given)
    test = _test_pictures if isinstance(net, ImageNetNetwork) else _test_images
    shares = test(net, given, _settings_beside(given.file))
    print(cell)
    print(errors_line(1 - shares["top1"], 1 - shares["top5"], net.classifier.out_features))


def _load(given: Namespace) -> tuple[CellStack, Genotype]:
    cell = find_genotype(given.genotype) if given.genotype else None
    return load_network(
        given.file, cell, channels=given.channels, layers=given.layers, auxiliary=given.auxiliary
    )


def _test_pictures(net: CellStack, given: Namespace, stored: Mapping[str, Any]) -> dict[str, float]:
    """Return the accuracies of a network of the ImageNet form on a folder's `val` pictures."""
    if given.dataset not in ("", "folder"):
        raise SettingsError(
            f"{given.file} has the ImageNet form, which is not for --dataset {given.dataset}: "
            "leave it out, and give --data-root FOLDER with train and val."
        )
    data, device = given.data_root or data_root() / "imagenet", resolve_device(given.device)
    _, files = find_pictures(data, given.size or stored.get("image_size", 0) or 224)
    _check_fit(net, len(files.classes), files.channels, data)
    batches = epoch_batches(len(files), 96, None)  # no figure depends on the size
    with contextlib.closing(read_batches(files, batches, given.workers, device)) as reading:
        return tested(net.to(device), reading)


def _test_images(net: CellStack, given: Namespace, stored: Mapping[str, Any]) -> dict[str, float]:
    """Return the accuracies of a network on the test images of a data set."""
    dataset = given.dataset or stored.get("dataset", "cifar10")
    if dataset == "folder" and not given.data_root:
        raise SettingsError("these pictures lie in a folder: name it with --data-root FOLDER.")
    print(f"testing on {dataset}" + ("" if given.dataset else "; --dataset names another"))
    device = resolve_device(given.device)
    if dataset in SHAPES:  # before anything is downloaded
        _check_fit(net, *SHAPES[dataset], dataset)
    size = given.size or stored.get("image_size", 0)
    images = load_images(dataset, given.data_root or data_root(), "test", size).to(device)
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
    if file.is_dir():
        return stored_settings(file) if (file / "config.json").is_file() else {}
    with contextlib.suppress(SettingsError):  # weights may lie in any folder
        return stored_settings(file.parent)
    return {}


def _parser() -> ArgumentParser:
    common = ArgumentParser(add_help=False)
    option = common.add_argument
    option("file", type=Path, help="of weights, or a retraining's run folder")
    option("--genotype", default="", help="needed if the file carries none")
    option("--channels", type=int, help="refuse a file of another width")
    option("--layers", type=int, help="refuse a file of another depth")
    option("--auxiliary", action="store_const", const=True, help="refuse a file without the head")
    parser = ArgumentParser(prog="python -m darts_lib.checkpoints")
    commands = parser.add_subparsers(required=True)
    test = commands.add_parser("evaluate", parents=[common], help="test error of saved weights")
    test.set_defaults(run=_evaluate)
    option = test.add_argument
    option("--dataset", default="", help="if left out, that of the run folder, or cifar10")
    option("--data-root", "--data", type=Path, help="the folder of the data sets, or pictures")
    option("--device", default="auto")
    option("--size", type=int, default=0, help="of pictures in files, in pixels; ImageNet's: 224")
    option("--workers", type=int, default=0, help="that read those pictures")
    export = commands.add_parser("export", parents=[common], help="as ONNX")
    export.set_defaults(run=_export)
    export.add_argument("--onnx", type=Path, required=True)
    export.add_argument("--size", type=int, default=32, help="of the images, in pixels")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
