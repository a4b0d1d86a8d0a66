"""A folder of your own pictures as a data set: a subfolder a class, any size, grey or colour."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from darts_lib.engine.progress import counted
from darts_lib.engine.refusals import SettingsError, one_line

LARGEST = 64  # side in pixels above which pictures are made smaller unless a size is asked for
TEST_SHARE = 5  # one picture in so many is a test picture where no test folder is given
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Endings of the files that are pictures, in small letters; torchvision takes the same."""
LAYOUT = (
    "one folder a class, FOLDER/<class>/*.jpg, or FOLDER/train/<class>/*.jpg with "
    "FOLDER/test/<class>/*.jpg or FOLDER/val/<class>/*.jpg, where data_root is FOLDER"
)

ClassFiles = dict[str, list[Path]]  # of every class, by its name, in order of it
Labelled = list[tuple[Path, int]]
Pictures = tuple[Tensor, Tensor]
"""Images uint8 `(n, channels, height, width)` and labels int64 `(n,)`."""
Splits = tuple[Pictures, Pictures, tuple[str, ...]]  # to train on, to test on, their classes


def read(root: Path, size: int = 0) -> Splits:
    """Return a folder's pictures: the smaller side resized to `size`, the centre cut out.

    Size 0 is the median of the training pictures' smaller sides, at most 64. One channel if all
    pictures are grey, else three. Without a test folder a fixed fifth of every class is the test
    split. The order is mixed, the same each time, with every class spread evenly over it. Raises
    SettingsError naming the folder or the file at fault.
    """
    train, test, classes = _find(root)
    shapes = [_shape(path) for path, _ in train + test]
    channels = max(channels for channels, _ in shapes)
    median = int(np.median([side for _, side in shapes[: len(train)]]))
    size = size or min(median, LARGEST)
    print(
        f"{root}: {len(train)} training and {len(test)} test pictures in {len(classes)} classes, "
        f"{counted(channels, 'channel')}, read at {size}x{size} pixels (median smaller "
        f"side {median}; image_size 0 takes that up to {LARGEST}).",
        flush=True,
    )
    return _load(train, channels, size), _load(test, channels, size), classes


def count(root: Path) -> int:
    """Return the number of training pictures that `read` would take; none is opened."""
    return len(_find(root)[0])


def _find(root: Path) -> tuple[Labelled, Labelled, tuple[str, ...]]:
    """Return training files, test files and classes, found in either layout."""
    rng = np.random.RandomState(0)  # its numbers are the same in every version of NumPy
    split = "train" if subfolders(root / "train") else ""
    train, test = class_files(root, split), {}
    test_splits = [name for name in ("test", "val") if split and subfolders(root / name)]
    if test_splits:
        test = held_out_files(root, test_splits[0], train)
    else:  # a fixed random fifth of every class, at least one picture
        for name, files in train.items():
            if len(files) < 2:
                raise SettingsError(
                    f"class {name!r} in {root / split} has one picture, too few to train and to "
                    "test: add more or give a test folder."
                )
            order = rng.permutation(len(files))
            held_out = max(1, round(len(files) / TEST_SHARE))
            test[name] = [files[i] for i in sorted(order[:held_out])]
            train[name] = [files[i] for i in sorted(order[held_out:])]
    return interleave(train, rng), interleave(test, rng), tuple(train)


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder in order of name, hidden ones left out."""
    folders = (path for path in folder.iterdir() if path.is_dir()) if os.path.isdir(folder) else ()
    return sorted(path for path in folders if not path.name.startswith((".", "__MACOSX")))


def class_files(root: Path, split: str, layout: str = LAYOUT) -> ClassFiles:
    """Return the picture files of every class in `root/split`, by its name; each must have one."""
    if not os.path.isdir(root):  # unlike its own is_dir, for a name of any length
        raise SettingsError(f"the folder of pictures {root} is not there; expected: {layout}.")
    folder = root / split
    files = {each.name: pictures(each) for each in subfolders(folder)}
    if not files:
        raise SettingsError(f"{folder} has no class folders; expected: {layout}.")
    for name, paths in files.items():
        if not paths:
            raise SettingsError(
                f"the class folder {folder / name} has no pictures: add some "
                f"({', '.join(EXTENSIONS)}) or remove it; expected: {layout}."
            )
    return files


def held_out_files(root: Path, split: str, train: ClassFiles, layout: str = LAYOUT) -> ClassFiles:
    """Return `class_files`, which must be of the classes of `root/train`; else a SettingsError."""
    files = class_files(root, split, layout)
    if odd := sorted(set(train) ^ set(files)):
        raise SettingsError(
            f"the classes of {root / 'train'} and {root / split} differ in {', '.join(odd)}: "
            "both need the same folders."
        )
    return files


def pictures(folder: Path) -> list[Path]:
    """Return the picture files below a folder, in order of their path."""
    paths = (path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS)
    return sorted(path for path in paths if path.is_file() and not path.name.startswith("."))


def interleave(classes: ClassFiles, rng: np.random.RandomState) -> Labelled:
    """Mix all classes so that every stretch of the list has its share of each.

    The i-th of a class's n pictures stands at (i + 1/2) / n of the way. So each half of the list,
    and its start, has all classes: a class of two pictures has one in each half.
    """
    placed = []
    for label, files in enumerate(classes.values()):
        for rank, index in enumerate(rng.permutation(len(files))):
            place = (2 * rank + 1) / (2 * len(files))
            placed.append((place, rng.random_sample(), files[index], label))
    return [(path, label) for _, _, path, label in sorted(placed)]


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open a picture; raise SettingsError, which names the file, where it cannot be read as one."""
    try:
        with Image.open(path) as picture:
            yield picture
    # What Pillow raises for a file that is cut off, is no picture, or is absurdly large.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise SettingsError(
            f"{path} cannot be read as a picture ({one_line(error)}): repair or remove it."
        ) from error


def _shape(path: Path) -> tuple[int, int]:
    """Return (channels, smaller side) of a picture from its header."""
    with opened(path) as picture:
        grey = Image.getmodebase(picture.mode) == "L"
        return (1 if grey else 3), min(picture.size)


def _load(files: Labelled, channels: int, size: int) -> Pictures:
    """Read the centre of each picture, smaller side resized to `size`, grey or in colour."""
    from torchvision.transforms import functional  # slow to load, and only needed for reading

    images = torch.empty(len(files), channels, size, size, dtype=torch.uint8)
    for image, (path, _) in zip(images, files, strict=True):
        with opened(path) as file:
            upright = ImageOps.exif_transpose(file)  # as the camera was held
            resized = functional.resize(in_channels(upright, channels), [size])
            image.copy_(functional.pil_to_tensor(functional.center_crop(resized, [size, size])))
    return images, torch.tensor([label for _, label in files])


def in_channels(picture: Image.Image, channels: int) -> Image.Image:
    """Return a picture of any mode in 8 bits: grey (1 channel) or RGB (3)."""
    if picture.mode.startswith("I"):  # 16 bits a pixel, which convert() would cut off at 255
        picture = Image.fromarray((np.asarray(picture) >> 8).clip(0, 255).astype(np.uint8))
    if picture.mode == "P":  # a palette's transparent colour has no place in RGB
        picture = picture.convert("RGBA")
    return picture.convert("L" if channels == 1 else "RGB")
