"""Folders of pictures, made up and as people have them: read as promised, or named and refused."""

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzz_tools import Printed, one_line
from picture_tools import lay, noise, plain, read, stored
from PIL import Image

from darts_lib.data.imagenet_data import find_pictures
from darts_lib.data.images import halves, load_images
from darts_lib.engine.refusals import SettingsError


def test_seven_classes_of_twenty_run_from_the_folder_alone(tmp_path: Path, capsys: Printed) -> None:
    """Of mixed sizes and kinds of file."""
    root, rng = tmp_path / "seven", np.random.RandomState(0)
    for label, index in itertools.product(range(7), range(20)):
        name = f"class {label}/{index}.{('jpg', 'png', 'webp')[index % 3]}"
        stored(root / name, noise(rng, *rng.randint(24, 72, size=2)))
    train, test, again = (load_images("folder", root, name) for name in ("train", "test", "train"))
    assert train.classes == tuple(f"class {label}" for label in range(7))
    assert train.labels.bincount().tolist() == [16] * 7
    assert test.labels.bincount().tolist() == [4] * 7
    side = train.size[0]
    assert 24 <= side <= 64
    assert (train.channels, train.size, train.flip, train.pad) == (3, (side, side), True, side // 8)
    assert (test.size, test.mean, test.std) == (train.size, train.mean, train.std)
    printed = capsys.readouterr().out.splitlines()[0]
    assert "112 training and 28 test pictures in 7 classes, 3 channels" in printed
    assert f"read at {side}x{side} pixels" in printed
    assert torch.equal(train.images, again.images), "the order is the same every time"
    assert torch.equal(train.labels, again.labels)
    turns = train.labels.view(16, 7)
    assert (turns.sort(dim=1).values == torch.arange(7)).all(), "and mixed, classes in turn"
    assert turns[0].tolist() != turns[1].tolist()


def test_halves_share_uneven_classes_and_no_picture_is_in_both_splits(tmp_path: Path) -> None:
    root = lay(tmp_path / "uneven", "few=3 many=40 some=10 pair=3")
    train = load_images("folder", root, "train")
    assert train.classes == ("few", "many", "pair", "some")
    assert [half.labels.bincount().tolist() for half in halves(train)] == [[1, 16, 1, 4]] * 2
    splits = read(lay(tmp_path / "split", "a=10 b=7 c=2"))[:2]
    values = torch.cat([images[:, 0, 0, 0] for images, _ in splits]).tolist()
    labels = torch.cat([labels for _, labels in splits]).tolist()
    expected = [(c, i) for c, count in enumerate((10, 7, 2)) for i in range(count)]
    assert sorted(zip(labels, values, strict=True)) == expected
    assert splits[1][1].bincount().tolist() == [2, 1, 1]


def four(root: Path, pixels: np.ndarray, **options: object) -> Path:
    """Save a picture twice in each of two classes."""
    for name in ("a/0", "a/1", "b/0", "b/1"):
        stored(root / f"{name}.png", Image.fromarray(pixels), **options)
    return root


def test_the_centre_of_the_resized_picture_is_kept_upright(tmp_path: Path) -> None:
    pixels = np.zeros((20, 60, 3), dtype=np.uint8)
    pixels[:, 20:40] = (200, 100, 50)
    root, colour = four(tmp_path / "wide", pixels), torch.tensor([200, 100, 50])[:, None, None]
    (same, _), _, _ = read(root)
    assert torch.equal(same[0].long(), colour.expand(3, 20, 20))
    (half, _), _, _ = read(root, size=10)
    assert half.shape[2:] == (10, 10)
    assert (half[0, :, :, 1:-1] == colour).all()
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # the orientation: turned by 180 degrees
    (images, _), _, _ = read(four(tmp_path / "phone", pixels, exif=exif))
    assert (images[0, :, :8] == 0).all()
    assert (images[0, :, 8:] == 255).all()


def test_the_size_is_the_median_up_to_64_or_what_is_asked(tmp_path: Path, capsys: Printed) -> None:
    small, large = [(20, 30), (40, 20), (90, 80)], [(300, 200), (200, 200), (90, 300)]
    for sides, size, side in ((small, 0, 20), (large, 0, 64), (large, 96, 96)):
        for name, (index, shape) in itertools.product("ab", enumerate(sides)):
            plain(tmp_path / "train" / name / f"{index}.png", size=shape)
            plain(tmp_path / "val" / name / "0.png", size=(500, 500))
        (train, _), (test, _), _ = read(tmp_path, size)
        assert train.shape[2:] == test.shape[2:] == (side, side)
        assert f"read at {side}x{side} pixels (median" in capsys.readouterr().out


BOTH = "train/a=4 train/b=4 val/a=4 val/b=4"
NO_FILES: dict[str, Callable[[Path], None]] = {
    "a folder": Path.mkdir,
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to nothing": lambda path: path.symlink_to("nowhere.png"),
    "a link to the folder above": lambda path: path.symlink_to(".."),
    "a pipe": os.mkfifo,
}


@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("name", ["x.png", ".hidden.png", "x.JPEG", "b\udcff.jpg"])
def test_what_is_no_file_is_no_picture(kind: str, name: str, tmp_path: Path) -> None:
    lay(tmp_path, BOTH)
    for folder in tmp_path.glob("*/[ab]"):
        NO_FILES[kind](folder / name)
    assert len(read(tmp_path)[0][0]) == len(find_pictures(tmp_path)[0]) == 8


@pytest.mark.parametrize("load", [read, find_pictures])
@pytest.mark.parametrize("layout", [
    *("", "a=1", "a=0 b=2", ".c=3", "__MACOSX=2", "x.png=2 é=2", "train=2 val=2 test=2"),
    *("train/a=2 val/1.png", "train val test", "train/train=2 val/val=1", "test/a=3 val/a=1"),
    *("train/a=2 test/b=1", "train/.c=2 val/a=2", "train/x.png=1 val/x.png=1", "train/a=1 val/a"),
])  # fmt: skip
def test_an_odd_layout_is_read_or_refused_by_name(layout: str, load: Any, tmp_path: Path) -> None:
    root = lay(tmp_path / "odd", layout)
    try:
        load(root, 8)
    except SettingsError as error:
        one_line(error, str(root))


@pytest.mark.parametrize("root", ["~nobody/x", "a link to itself", "x" * 300, "x/" * 3000])
def test_a_folder_that_cannot_be_is_named(root: str, tmp_path: Path) -> None:
    NO_FILES["a link to itself"](tmp_path / "a link to itself")
    path = Path(root) if root.startswith("~") else tmp_path / root
    for load in (lambda: load_images("folder", path, "train"), lambda: find_pictures(path)):
        with pytest.raises(SettingsError, match="is not there.*FOLDER/train.*data_root is FOLDER"):
            load()
