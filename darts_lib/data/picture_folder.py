"""A folder of your own pictures as a data set: a subfolder a class, any size, grey or colour."""

import os
import statistics
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from darts_lib.engine.refusals import SettingsError, one_line
from darts_lib.engine.progress import counted

LARGEST = 64
"""Side in pixels above which pictures are made smaller unless a size is asked for."""
TEST_SHARE = 5
"""One picture in so many is a test picture where no test folder is given."""
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Endings of the files that are pictures, in small letters; torchvision takes the same."""
GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "F")
LAYOUT = (
    "one folder a class, FOLDER/<class>/*.jpg, or FOLDER/train/<class>/*.jpg with "
    "FOLDER/test/<class>/*.jpg or FOLDER/val/<class>/*.jpg, where data_root is FOLDER"
)
BROKEN = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises for a file that is cut off, is no picture, or is absurdly large."""

Paths = list[list[Path]]
"""The picture files of every class."""
Labelled = list[tuple[Path, int]]
Pictures = tuple[Tensor, Tensor]


def read(root: Path, size: int = 0) -> tuple[Pictures, Pictures, tuple[str, ...]]:
    """Return training (images, labels), test (images, labels) and the names of the classes.

    Images are uint8 `(n, channels, size, size)`: the smaller side resized to `size`, then the
    centre cut out. Size 0 is the median of the training pictures' smaller sides, at most 64. One
    channel if all pictures are grey, else three. Without a test folder a fixed fifth of every
    class is the test split. The order is mixed, the same each time, with every class spread
    evenly over it. Raises SettingsError naming the folder or the file at fault.
    """
    train, test, classes = _find(root)
    shapes = [_shape(path) for path, _ in train + test]
    channels = max(channels for channels, _ in shapes)
    median = int(statistics.median(side for _, side in shapes[: len(train)]))
    size = size or min(median, LARGEST)
    print(
        f"{root}: {len(train)} training and {len(test)} test pictures in {len(classes)} classes, "
        f"{counted(channels, 'channel')}, read at {size}x{size} pixels (median smaller "
        f"side {median}; image_size 0 takes that up to {LARGEST}).",
        flush=True,
    )
    return _load(train, channels, size), _load(test, channels, size), classes


def count(root: Path) -> int:
    """Return the number of training pictures in a folder, none of which is opened.

    Raises SettingsError for a folder that `read` could not read either.
    """
    return len(_find(root)[0])


def _find(root: Path) -> tuple[Labelled, Labelled, tuple[str, ...]]:
    """Return training files, test files and classes, found in either layout."""
    if not os.path.isdir(root):  # unlike its own is_dir, for a name of any length
        raise SettingsError(f"the folder of pictures {root} is not there; expected: {LAYOUT}.")
    rng = np.random.RandomState(0)  # its numbers are the same in every version of NumPy
    if not subfolders(root / "train"):
        classes, paths = class_files(root)
        train, test = _split(paths, classes, root, rng)
        return interleave(train, rng), interleave(test, rng), classes
    held_out = next((root / name for name in ("test", "val") if subfolders(root / name)), None)
    classes, paths = class_files(root / "train")
    if held_out is None:
        train, test = _split(paths, classes, root / "train", rng)
    else:
        train, (test_classes, test) = paths, class_files(held_out)
        check_same_classes(root / "train", classes, held_out, test_classes)
    return interleave(train, rng), interleave(test, rng), classes


def check_same_classes(
    train: Path, classes: Iterable[str], held_out: Path, test_classes: Iterable[str]
) -> None:
    """Raise SettingsError if the pictures held out have other classes than those to train on."""
    if odd := sorted(set(classes) ^ set(test_classes)):
        raise SettingsError(
            f"the classes of {train} and {held_out} differ in {', '.join(odd)}: "
            "both need the same folders."
        )


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder in order of name, hidden ones left out."""
    if not os.path.isdir(folder):
        return []
    found = (path for path in folder.iterdir() if path.is_dir())
    return sorted(path for path in found if not path.name.startswith((".", "__MACOSX")))


def class_files(folder: Path, layout: str = LAYOUT) -> tuple[tuple[str, ...], Paths]:
    """Return the names of the classes and their picture files; every class must have one."""
    folders = subfolders(folder)
    if not folders:
        raise SettingsError(f"{folder} has no class folders; expected: {layout}.")
    paths = [pictures(each) for each in folders]
    for each, found in zip(folders, paths, strict=True):
        if not found:
            raise SettingsError(
                f"the class folder {each} has no pictures: add some ({', '.join(EXTENSIONS)}) "
                f"or remove it; expected: {layout}."
            )
    return tuple(each.name for each in folders), paths


def pictures(folder: Path) -> list[Path]:
    """Return the picture files below a folder, in order of their path."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS)
    return sorted(path for path in found if path.is_file() and not path.name.startswith("."))


def _split(
    paths: Paths, classes: tuple[str, ...], folder: Path, rng: np.random.RandomState
) -> tuple[Paths, Paths]:
    """Take a fixed random fifth of every class, at least one picture, as test pictures."""
    train: Paths = []
    test: Paths = []
    for name, files in zip(classes, paths, strict=True):
        if len(files) < 2:
            raise SettingsError(
                f"class {name!r} in {folder} has one picture, too few to train and to test: add "
                "more or give a test folder."
            )
        order = rng.permutation(len(files))
        held_out = max(1, round(len(files) / TEST_SHARE))
        test.append([files[i] for i in sorted(order[:held_out])])
        train.append([files[i] for i in sorted(order[held_out:])])
    return train, test


def interleave(paths: Paths, rng: np.random.RandomState) -> Labelled:
    """Mix all classes so that every stretch of the list has its share of each.

    The i-th of a class's n pictures stands at (i + 1/2) / n of the way. So each half of the list,
    and its start, has all classes: a class of two pictures has one in each half.
    """
    placed = []
    for label, files in enumerate(paths):
        for rank, index in enumerate(rng.permutation(len(files))):
            place = (2 * rank + 1) / (2 * len(files))
            placed.append((place, rng.random_sample(), files[index], label))
    return [(path, label) for _, _, path, label in sorted(placed)]


def _shape(path: Path) -> tuple[int, int]:
    """Return (channels, smaller side) of a picture from its header."""
    try:
        with Image.open(path) as picture:
            return (1 if picture.mode in GREY_MODES else 3), min(picture.size)
    except BROKEN as error:
        raise unreadable(path, error) from error


def _load(files: Labelled, channels: int, size: int) -> Pictures:
    """Return images uint8 `(n, channels, size, size)` and labels int64 `(n,)`."""
    images = torch.empty(len(files), channels, size, size, dtype=torch.uint8)
    for image, (path, _) in zip(images, files, strict=True):
        try:
            pixels = np.array(_square(path, channels, size))
        except BROKEN as error:
            raise unreadable(path, error) from error
        image.copy_(torch.from_numpy(pixels).view(size, size, channels).permute(2, 0, 1))
    return images, torch.tensor([label for _, label in files])


def _square(path: Path, channels: int, size: int) -> Image.Image:
    """Return the centre of a picture, smaller side resized to `size`, grey or in colour."""
    from torchvision.transforms import functional  # slow to load, and only needed for reading

    with Image.open(path) as opened:
        upright = ImageOps.exif_transpose(opened)  # as the camera was held
        picture = in_channels(upright, channels)
        resized = functional.resize(picture, [size])
        square: Image.Image = functional.center_crop(resized, [size, size])
        return square


def in_channels(picture: Image.Image, channels: int) -> Image.Image:
    """Return a picture of any mode in 8 bits: grey (1 channel) or RGB (3)."""
    if picture.mode.startswith("I"):  # 16 bits a pixel, which convert() would cut off at 255
        picture = Image.fromarray((np.asarray(picture) >> 8).clip(0, 255).astype(np.uint8))
    if picture.mode == "P":  # a palette's transparent colour has no place in RGB
        picture = picture.convert("RGBA")
    return picture.convert("L" if channels == 1 else "RGB")


def unreadable(path: Path, error: Exception) -> SettingsError:
    """Return the error for a file that cannot be read as a picture."""
    return SettingsError(
        f"{path} cannot be read as a picture ({one_line(error)}): repair or remove it."
    )
