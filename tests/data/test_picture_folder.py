"""Folders of made-up pictures: layouts, modes, sizes, the order, and what can be wrong."""

import io
import itertools
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzz_tools import Printed, refusal_of
from PIL import Image

from darts_lib.data.images import halves, load_images
from darts_lib.data.picture_folder import in_channels, read


def save(path: Path, mode: str = "RGB", size: tuple[int, int] = (12, 12), value: int = 102) -> Path:
    """Save a picture of one value (102 is in every palette); `size` is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value,) * 3).convert(mode).save(path)
    return path


def folder_of(root: Path, **counts: int) -> Path:
    """Make a class folder for each name with so many pictures, no two of one value in a class."""
    for name, count in counts.items():
        for index in range(count):
            save(root / name / f"{index:03}.png", value=index)
    return root


def copies(root: Path, pixels: np.ndarray, **options: object) -> Path:
    """Save a picture twice in each of two classes."""
    for path in (save(root / name / f"{i}.png") for name in "ab" for i in range(2)):
        Image.fromarray(pixels).save(path, **options)
    return root


def test_seven_classes_of_twenty_run_from_the_folder_alone(tmp_path: Path, capsys: Printed) -> None:
    """Of mixed sizes and kinds of file."""
    root, rng = tmp_path / "seven", np.random.RandomState(0)
    for label, index in itertools.product(range(7), range(20)):
        width, height = rng.randint(24, 72, size=2)
        path = root / f"class {label}" / f"{index}.{('jpg', 'png', 'webp')[index % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.randint(256, size=(height, width, 3)).astype(np.uint8)).save(path)
    train, test, again = (load_images("folder", root, name) for name in ("train", "test", "train"))
    assert train.classes == tuple(f"class {label}" for label in range(7))
    assert train.labels.bincount().tolist() == [16] * 7
    assert test.labels.bincount().tolist() == [4] * 7
    side = train.size[0]
    assert 24 <= side <= 64
    assert (train.channels, train.size, train.flip, train.pad) == (3, (side, side), True, side // 8)
    assert (test.size, test.mean, test.std) == (train.size, train.mean, train.std)
    assert all(0.45 < mean < 0.55 for mean in train.mean)
    (printed, *_) = capsys.readouterr().out.splitlines()
    assert "112 training and 28 test pictures in 7 classes, 3 channels" in printed
    assert f"read at {side}x{side} pixels" in printed
    assert torch.equal(train.images, again.images), "the order is the same every time"
    assert torch.equal(train.labels, again.labels)
    turns = train.labels.view(16, 7)
    assert (turns.sort(dim=1).values == torch.arange(7)).all(), "and mixed, classes in turn"
    assert turns[0].tolist() != turns[1].tolist()


def test_halves_share_uneven_classes_and_no_picture_is_in_both_splits(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "uneven", few=3, many=40, some=10, pair=3)
    train = load_images("folder", root, "train")
    assert train.classes == ("few", "many", "pair", "some")
    assert [half.labels.bincount().tolist() for half in halves(train)] == [[1, 16, 1, 4]] * 2
    splits = read(folder_of(tmp_path / "split", a=10, b=7, c=2))[:2]
    values = torch.cat([images[:, 0, 0, 0] for images, _ in splits]).tolist()
    labels = torch.cat([labels for _, labels in splits]).tolist()
    assert sorted(zip(labels, values, strict=True)) == [
        (c, i) for c, count in enumerate((10, 7, 2)) for i in range(count)
    ]
    assert splits[1][1].bincount().tolist() == [2, 1, 1]


AB, FEW = {"a": 5, "b": 4}, {"a": 2, "b": 1}


@pytest.mark.parametrize(("folders", "train", "test"), [
    ({"train": AB, "test": FEW}, [5, 4], [2, 1]),
    ({"train": AB, "val": FEW}, [5, 4], [2, 1]),
    ({"train": AB, "test": FEW, "val": {"a": 3}}, [5, 4], [2, 1]),
    ({"train": {"a": 10, "b": 10}}, [8, 8], [2, 2]),
    ({".": {"a": 3, "train": 3}}, [2, 2], [1, 1]),  # a class called train
])  # fmt: skip
def test_layouts(folders: Any, train: list[int], test: list[int], tmp_path: Path) -> None:
    for name, counts in folders.items():
        folder_of(tmp_path / "layout" / name, **counts)
    *splits, classes = read(tmp_path / "layout")
    assert classes == tuple(sorted(next(iter(folders.values()))))
    assert [labels.bincount().tolist() for _, labels in splits] == [train, test]


def test_links_and_deeper_files_are_pictures_and_hidden_and_others_none(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "mac", a=3, b=3)
    (root / ".ipynb_checkpoints").mkdir()
    for name in ("a/._000.png", "a/notes.txt", "README.txt"):
        (root / name).write_text("x")
    (root / "a" / "link.png").symlink_to("000.png")
    save(root / "b" / "deep" / "er" / "x.PNG")
    (train, _), (test, _), classes = read(root)
    assert (len(train) + len(test), classes) == (8, ("a", "b"))


RED = Image.new("RGB", (12, 12), (255, 0, 0))
DEEP = Image.fromarray(np.full((12, 12), 100 * 257, dtype=np.uint16))


@pytest.mark.parametrize(("picture", "kind", "options", "colour"), [
    (Image.new("RGBA", (12, 12), (255, 0, 0, 9)), "PNG", {}, (255, 0, 0)),
    (RED.quantize(4), "PNG", {}, (255, 0, 0)),
    (RED.quantize(4), "PNG", {"transparency": bytes([0, 128, 255])}, (255, 0, 0)),
    (Image.new("CMYK", (12, 12), (0, 255, 255, 0)), "JPEG", {}, (255, 0, 0)),
    (Image.new("LA", (12, 12), (100, 9)), "PNG", {}, (100, 100, 100)),
    (DEEP, "PNG", {}, (100, 100, 100)),
])  # fmt: skip
def test_modes_become_colour_or_grey(picture: Any, kind: str, options: Any, colour: Any) -> None:
    picture.save(file := io.BytesIO(), kind, **options)
    with warnings.catch_warnings(), Image.open(file) as stored:
        warnings.simplefilter("error")
        pixels, grey = (np.asarray(in_channels(stored, channels)) for channels in (3, 1))
    assert (pixels.shape, grey.shape) == ((12, 12, 3), (12, 12))
    assert (abs(pixels.astype(int) - colour) <= 3).all()
    assert colour == (255, 0, 0) or (grey == colour[0]).all()


def test_all_grey_pictures_have_one_channel_and_beside_colour_three(tmp_path: Path) -> None:
    for index in range(2):
        save(tmp_path / "grey" / "a" / f"{index}.png", "L", value=100)
        save(tmp_path / "grey" / "b" / f"alpha{index}.png", "LA", value=100)
        DEEP.save(tmp_path / "grey" / "a" / f"deep{index}.png")
    (train, _), (test, _), _ = read(tmp_path / "grey")
    images = torch.cat([train, test])
    assert images.shape == (6, 1, 12, 12)
    assert (images == 100).all()
    save(tmp_path / "grey" / "b" / "colour.png")
    assert read(tmp_path / "grey")[0][0].shape[1] == 3


def test_the_centre_of_the_resized_picture_is_kept_upright(tmp_path: Path) -> None:
    pixels = np.zeros((20, 60, 3), dtype=np.uint8)
    pixels[:, 20:40] = (200, 100, 50)
    root, colour = copies(tmp_path / "wide", pixels), torch.tensor([200, 100, 50])[:, None, None]
    (same, _), _, _ = read(root)
    assert torch.equal(same[0].long(), colour.expand(3, 20, 20))
    (half, _), _, _ = read(root, size=10)
    assert half.shape[2:] == (10, 10)
    assert (half[0, :, :, 1:-1] == colour).all()
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # the orientation: turned by 180 degrees
    (images, _), _, _ = read(copies(tmp_path / "phone", pixels, exif=exif))
    assert (images[0, :, :8] == 0).all()
    assert (images[0, :, 8:] == 255).all()


@pytest.mark.parametrize(("sides", "size", "expected"), [
    ([(20, 30), (40, 20), (90, 80)], 0, 20),
    ([(300, 200), (200, 200), (90, 300)], 0, 64),
    ([(300, 200), (200, 200), (90, 300)], 96, 96),
])  # fmt: skip
def test_the_size_is_the_median_up_to_64_or_what_is_asked(
    sides: list[tuple[int, int]], size: int, expected: int, tmp_path: Path,
    capsys: Printed,
) -> None:  # fmt: skip
    for name in "ab":
        for index, side in enumerate(sides):
            save(tmp_path / "sizes" / "train" / name / f"{index}.png", size=side)
        save(tmp_path / "sizes" / "val" / name / "0.png", size=(500, 500))
    (train, _), (test, _), _ = read(tmp_path / "sizes", size)
    assert train.shape[2:] == test.shape[2:] == (expected, expected)
    assert f"read at {expected}x{expected} pixels (median" in capsys.readouterr().out


LAYOUT = "FOLDER/<class>/*.jpg, or FOLDER/train/<class>/*.jpg"
WRONG: list[tuple[Callable[[Path], object], list[str]]] = [
    (lambda root: None, ["pictures {0} is not there", LAYOUT, "where data_root is FOLDER"]),
    (lambda root: save(root / "1.png"), ["{0} has no class folders", LAYOUT]),
    (lambda root: save(root / "a" / "1.png") and (root / "b").mkdir(),
        ["class folder {0}/b has no pictures", ".jpg, .jpeg", LAYOUT]),
    (lambda root: folder_of(root, a=3, b=1), ["class 'b' in {0} has one picture"]),
    (lambda root: folder_of(root / "train", a=3, b=3) and folder_of(root / "test", a=3, c=3),
        ["{0}/train and {0}/test differ in b, c"]),
]  # fmt: skip


def test_wrong_folders_are_named(tmp_path: Path) -> None:
    for number, (make, words) in enumerate(WRONG):
        make(root := tmp_path / f"wrong {number}")
        told = [part.format(root) for part in words]
        refusal_of(partial(load_images, "folder", root, "train"), *told)
