"""The test error of saved weights, ours or published ones, and their export for other tools.

    python -m darts_lib.checkpoints evaluate RUN_FOLDER
    python -m darts_lib.checkpoints evaluate FILE --genotype DARTS_V2 --dataset cifar10
    python -m darts_lib.checkpoints evaluate IMAGENET_FILE --data-root data/imagenet --workers 8
    python -m darts_lib.checkpoints export FILE --onnx OUT [--genotype DARTS_V2]

`weights.network_files` says which files are known. The weights in a run folder are tested on the
data set that the run was made with.
"""

import argparse
import contextlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from darts_lib.data.imagenet_data import find_pictures, read_batches
from darts_lib.data.images import load_images
from darts_lib.engine.batches import epoch_batches
from darts_lib.engine.devices import resolve_device
from darts_lib.engine.files import check_target
from darts_lib.engine.opening import stored_settings
from darts_lib.engine.places import data_root
from darts_lib.engine.progress import counted
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.settings import SHAPES
from darts_lib.formats.cell_choice import find_genotype
from darts_lib.formats.network_files import load_network
from darts_lib.formats.onnx_files import export_onnx
from darts_lib.genotype import GenotypeError
from darts_lib.imagenet_network import ImageNetNetwork
from darts_lib.network import CellStack
from darts_lib.retrain_epoch import errors_line, evaluate, tested

VAL_BATCH = 96
"""Pictures a batch at the test of an ImageNet network; no figure depends on it."""


def test_errors(
    net: CellStack, dataset: str, data: Path, device: str, size: int
) -> tuple[float, float]:
    """Return the top-1 and top-5 errors (0 to 1) on a data set's test images.

    `size` is the side in pixels of a folder's pictures, 0 to find it from them.
    """
    where, known = resolve_device(device), SHAPES.get(dataset)
    if known:  # before anything is downloaded
        _check_fit(net, *known, dataset)
    images = load_images(dataset, data, "test", size).to(where)
    if not known:
        _check_fit(net, len(images.classes), images.channels, dataset)
    found = evaluate(net.to(where), images)
    return 1 - found["top1"], 1 - found["top5"]


def val_errors(
    net: ImageNetNetwork, data: Path, size: int, workers: int, device: str
) -> tuple[float, float]:
    """Return the top-1 and top-5 errors (0 to 1) on the `val` pictures, `size` pixels square."""
    where = resolve_device(device)
    _, files = find_pictures(data, size)
    _check_fit(net, len(files.classes), files.channels, data)
    reading = read_batches(files, epoch_batches(len(files), VAL_BATCH, None), workers, where)
    with contextlib.closing(reading):
        found = tested(net.to(where), reading)
    return 1 - found["top1"], 1 - found["top5"]


def _check_fit(net: CellStack, classes: int, channels: int, source: object) -> None:
    """Refuse images of another number of classes or channels than the network's."""
    own = net.classifier.out_features, next(net.parameters()).shape[1]
    if own != (classes, channels):
        raise SettingsError(
            f"the network tells {own[0]} classes apart in images of {counted(own[1], 'channel')}, "
            f"but {source} has {classes} and {channels}; give another --dataset or --data-root."
        )


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return 0, or 2 after one line that says what was wrong."""
    given = _parser().parse_args(arguments)
    try:
        cell = find_genotype(given.genotype) if given.genotype else None
        expected = {n: getattr(given, n) for n in ("channels", "layers", "auxiliary")}
        if given.command == "export":
            check_target(given.onnx)
        elif given.data_root and not given.data_root.is_dir():
            raise SettingsError(f"--data-root {given.data_root} is not there; name a folder.")
        net, cell = load_network(given.file, cell, **expected)
        if given.command == "export":
            channels = next(net.parameters()).shape[1]
            export_onnx(net, given.onnx, (channels, given.size, given.size))
            print(f"written: {given.onnx}")
        else:
            top1, top5 = _errors(net, given)
            print(f"{cell}")
            print(errors_line(top1, top5, net.classifier.out_features))
    except (SettingsError, GenotypeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _errors(net: CellStack, given: argparse.Namespace) -> tuple[float, float]:
    """Test a network on what the command line names; the network's form tells which kind."""
    own = _settings_beside(given.file)
    size = given.size or own.get("image_size", 0)
    if isinstance(net, ImageNetNetwork):
        if given.dataset not in ("", "folder"):
            raise SettingsError(
                f"{given.file} has the ImageNet form, which is not for --dataset {given.dataset}: "
                "leave it out, and give --data-root FOLDER with train and val."
            )
        data = given.data_root or data_root() / "imagenet"
        return val_errors(net, data, size or 224, given.workers, given.device)
    dataset = given.dataset or own.get("dataset", "cifar10")
    if dataset == "folder" and not given.data_root:
        raise SettingsError("these pictures lie in a folder: name it with --data-root FOLDER.")
    print(f"testing on {dataset}" + ("" if given.dataset else "; --dataset names another"))
    return test_errors(net, dataset, given.data_root or data_root(), given.device, size)


def _settings_beside(file: Path) -> Mapping[str, Any]:
    """Return the settings of a run folder, or of the one that a file of weights lies in, if any."""
    if file.is_dir():
        return stored_settings(file) if (file / "config.json").is_file() else {}
    with contextlib.suppress(SettingsError):  # weights may lie in any folder
        return stored_settings(file.parent)
    return {}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m darts_lib.checkpoints")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, purpose in (("evaluate", "test error of saved weights"), ("export", "as ONNX")):
        command = commands.add_parser(name, help=purpose)
        command.add_argument("file", type=Path, help="of weights, or a retraining's run folder")
        command.add_argument("--genotype", default="", help="needed if the file carries none")
        command.add_argument("--channels", type=int, help="refuse a file of another width")
        command.add_argument("--layers", type=int, help="refuse a file of another depth")
        command.add_argument(
            "--auxiliary", action="store_true", default=None, help="refuse a file without the head"
        )
        if name == "evaluate":
            command.add_argument(
                "--dataset",
                default="",
                help="if left out, that of the run folder, or cifar10",
            )
            command.add_argument(
                "--data-root", "--data", type=Path, help="the folder of the data sets, or pictures"
            )
            command.add_argument("--device", default="auto")
            command.add_argument(
                "--size",
                type=int,
                default=0,
                help="of pictures in files, in pixels; ImageNet's: 224",
            )
            command.add_argument("--workers", type=int, default=0, help="that read those pictures")
        else:
            command.add_argument("--onnx", type=Path, required=True)
            command.add_argument("--size", type=int, default=32, help="of the images, in pixels")
    return parser
