"""Folders of pictures like ImageNet: a colour a class, nested or flat, and a kit of labels."""

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from darts_lib.data.imagenet_data import TRUTH

CLASSES = {"n01": (200, 40, 40), "n02": (40, 200, 40), "n03": (40, 40, 200)}


def save(path: Path, colour: tuple[int, int, int] = (90, 90, 90), size: int = 40) -> Path:
    """Write a picture of one colour with noise, a JPEG or what the name's end says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(path.name)).integers(-30, 30, (size, size + 10, 3))
    Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(path)
    return path


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
