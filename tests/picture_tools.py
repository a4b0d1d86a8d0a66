"""Builders of pictures and of folders of them: a class a folder, or flat with a kit of labels."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat

from darts_lib.data import picture_folder
from darts_lib.data.labels import TRUTH

CLASSES = {"n01": (200, 40, 40), "n02": (40, 200, 40), "n03": (40, 40, 200)}


def read(root: Path, size: int = 0) -> Any:
    """Return the pictures to train on and those to test on, and the classes."""
    splits, classes, *_ = picture_folder.read(root, size)
    return splits["train"], splits["test"], classes


def noise(rng: np.random.RandomState, width: int, height: int) -> Image.Image:
    """Return a colour picture of noise."""
    return Image.fromarray(rng.randint(256, size=(height, width, 3)).astype(np.uint8))


def stored(path: Path, picture: Image.Image, **options: object) -> Path:
    """Save a picture as the name's end says, in a folder that is made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)
    return path


def plain(path: Path, mode: str = "RGB", size: tuple[int, int] = (12, 12), value: int = 9) -> Path:
    """Save a picture of one value; `size` is (width, height)."""
    return stored(path, Image.new("RGB", size, (value,) * 3).convert(mode))


def lay(root: Path, layout: str) -> Path:
    """Make `path=count`, a class folder of so many grey pictures, and files of text without `=`."""
    root.mkdir(parents=True, exist_ok=True)
    for path, equals, count in (item.partition("=") for item in layout.split()):
        place = root / path
        (place if equals else place.parent).mkdir(parents=True, exist_ok=True)
        for value in range(int(count or 0)):
            plain(place / f"{value:03}.png", "L", value=value)
        if not equals:
            place.write_text("text")
    return root


def save(path: Path, colour: tuple[int, int, int] = (90, 90, 90), size: int = 40) -> Path:
    """Save a picture of one colour with noise."""
    noise = np.random.default_rng(len(path.name)).integers(-30, 30, (size, size + 10, 3))
    pixels = (np.array(colour) + noise).clip(0, 255).astype(np.uint8)
    return stored(path, Image.fromarray(pixels))


def make(root: Path, count: int = 4, flat: bool = False) -> Path:
    """Write `count` training and two validation pictures a class; return the folder."""
    for number, (name, colour) in enumerate(CLASSES.items()):
        for i in range(count):
            save(root / "train" / name / f"{name}_{i}.JPEG", colour, 36 + 4 * i)
        for i in range(2):  # flat, the classes take turns: 1, 2, 3, 1, 2, 3
            val = f"ILSVRC2012_val_{3 * i + number + 1:08}.JPEG"
            save(root / "val" / val if flat else root / "val" / name / val, colour)
    return root


def kit(folder: Path, ids: str = "3\n1\n2\n3\n1\n2\n") -> None:
    """Write the two files of a development kit, whose numbers are not in the classes' order."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TRUTH).write_text(ids)
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    rows = [(3, "n01", "a", 0), (1, "n02", "b", 0), (2, "n03", "c", 0), (4, "n00", "all", 3)]
    synsets = np.array([tuple(row) for row in rows], dtype=fields).reshape(-1, 1)
    savemat(folder / "meta.mat", {"synsets": synsets})
