"""A folder of pictures like ImageNet's, without a download: crops of two photographs.

They are the photographs that scikit-learn ships, a temple and a flower. Crops of the left part of
each are to train on, crops of the right part to test on, as JPEG files, some of them in grey. The
folder shows how one is read and trained on. It measures nothing: its two classes are two pictures.
"""

import shutil
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor
from torch.nn import functional

from darts_lib.engine.files import locked
from darts_lib.engine.refusals import SettingsError

PHOTOGRAPHS = {"flower": "flower.jpg", "temple": "china.jpg"}
"""The classes, and the file of scikit-learn that each is cut from."""
CROPS = {"train": 100, "val": 30}  # pictures of each class
SIDE = 96  # height and width of a crop, in pixels
TRAINING_SHARE = 0.55  # of a photograph's width, from the left, that training crops come from
GREY = 10  # one picture in so many is stored in grey, as some of ImageNet's are

Pixels = npt.NDArray[np.uint8]


def example_pictures(root: Path) -> Path:
    """Return `root/example-pictures`, with `train/<class>/*.JPEG` and `val/<class>/*.JPEG` in it.

    It is written on the first call: beside its place and then renamed, so it is there whole or not
    at all, and later calls, of other processes too, find it as it is. The crops are the same each
    time. Raises SettingsError where nothing can be written.
    """
    folder = root / "example-pictures"
    try:
        if not folder.is_dir():
            root.mkdir(parents=True, exist_ok=True)
            with locked(root / f".{folder.name}.lock", f"the folder {folder}"):
                if not folder.is_dir():  # another process may have been first
                    _write(folder)
    except OSError as error:
        raise SettingsError(
            f"{folder} was not written ({error.strerror}); set DARTS_LIB_RUNS to a folder that can "
            "be written to."
        ) from error
    return folder


def _write(folder: Path) -> None:
    beside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(beside, ignore_errors=True)  # of a writer that was killed; we hold the lock
    try:
        for (split, count), (label, name) in product(CROPS.items(), PHOTOGRAPHS.items()):
            (beside / split / label).mkdir(parents=True)
            for number, crop in enumerate(crops(load_sample_image(name), split, count)):
                picture = Image.fromarray(crop).convert("RGB" if number % GREY else "L")
                picture.save(beside / split / label / f"{label}_{number:03}.JPEG", quality=90)
        beside.rename(folder)
    finally:  # after Ctrl-C too; nothing is left there once it was renamed
        shutil.rmtree(beside, ignore_errors=True)


def crops(photograph: Pixels, split: str, count: int) -> list[Pixels]:
    """Cut `count` squares at random from the part `(height, width, 3)` that a split may see.

    The parts of `train` and `val` share no pixel. Places depend on the split alone.
    """
    height, width = photograph.shape[:2]
    border = round(TRAINING_SHARE * width)
    seed, first, last = (0, 0, border) if split == "train" else (1, border, width)
    rng = np.random.RandomState(seed)
    tops = rng.randint(0, height - SIDE + 1, count)
    lefts = rng.randint(first, last - SIDE + 1, count)
    return [photograph[y : y + SIDE, x : x + SIDE] for y, x in zip(tops, lefts, strict=True)]


def photograph(side: int = 96) -> Tensor:
    """Return a Chinese tower from scikit-learn, `(1, 3, side, side)`, values from 0 to 1."""
    photo = torch.tensor(load_sample_image(PHOTOGRAPHS["temple"]))
    square = photo.permute(2, 0, 1)[None, :, :, 30:457].float() / 255
    return functional.interpolate(square, size=side, mode="bilinear", antialias=True)
