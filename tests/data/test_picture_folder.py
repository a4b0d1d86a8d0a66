"""Folders of pictures, made up and as people have them: read as promised, or named and refused."""

import io
import itertools
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzz_tools import Printed, examples, one_line, refusal_of
from hypothesis import given
from hypothesis import strategies as st
from picture_tools import lay, plain, stored
from PIL import Image

from darts_lib.data.imagenet_data import PictureFiles, Reader, find_pictures
from darts_lib.data.images import halves, load_images
from darts_lib.data.picture_folder import in_channels, read
from darts_lib.engine.refusals import SettingsError


def noise(rng: np.random.RandomState, width: int, height: int) -> Image.Image:
    return Image.fromarray(rng.randint(256, size=(height, width, 3)).astype(np.uint8))


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


@pytest.mark.parametrize(("layout", "train", "test"), [
    ("train/a=5 train/b=4 test/a=2 test/b=1", [5, 4], [2, 1]),
    ("train/a=5 train/b=4 val/a=2 val/b=1", [5, 4], [2, 1]),
    ("train/a=5 train/b=4 test/a=2 test/b=1 val/a=3", [5, 4], [2, 1]),
    ("train/a=10 train/b=10", [8, 8], [2, 2]),
    ("a=3 train=3", [2, 2], [1, 1]),  # a class called train
    ("a=3 b=3 .ipynb_checkpoints=0 a/._000.png a/notes.txt README.txt", [2, 2], [1, 1]),
    ("a=3 b=1 b/deep/er=2 __MACOSX/a=2", [2, 2], [1, 1]),
])  # fmt: skip
def test_layouts(layout: str, train: list[int], test: list[int], tmp_path: Path) -> None:
    *splits, classes = read(lay(tmp_path / "layout", layout))
    assert classes == (("a", "train") if "train=" in layout else ("a", "b"))
    assert [labels.bincount().tolist() for _, labels in splits] == [train, test]


def test_links_are_pictures_whatever_the_case_of_their_ends(tmp_path: Path) -> None:
    root = lay(tmp_path / "links", "a=3 b=3")
    (root / "a" / "link.PNG").symlink_to("000.png")
    (train, _), (test, _), _ = read(root)
    assert len(train) + len(test) == 7


@pytest.mark.parametrize(("kind", "options", "picture"), [
    ("PNG", {}, Image.new("RGBA", (12, 12), (255, 0, 0, 9))),
    ("PNG", {"transparency": b"\0\x80\xff"}, Image.new("RGB", (12, 12), (255, 0, 0)).quantize(4)),
    ("JPEG", {}, Image.new("CMYK", (12, 12), (0, 255, 255, 0))),
])  # fmt: skip
def test_red_stays_red_whatever_else_a_mode_has(kind: str, options: Any, picture: Any) -> None:
    picture.save(file := io.BytesIO(), kind, **options)
    with warnings.catch_warnings(), Image.open(file) as opened:
        warnings.simplefilter("error")
        pixels = np.asarray(in_channels(opened, 3))
    assert pixels.shape == (12, 12, 3)
    assert (abs(pixels.astype(int) - (255, 0, 0)) <= 3).all()


def test_all_grey_pictures_have_one_channel_and_beside_colour_three(tmp_path: Path) -> None:
    root, deep = tmp_path / "grey", Image.fromarray(np.full((12, 12), 100 * 257, dtype=np.uint16))
    for index in range(2):
        plain(root / "a" / f"{index}.png", "L", value=100)
        stored(root / "b" / f"alpha{index}.png", Image.new("LA", (12, 12), (100, 9)))
        stored(root / "a" / f"deep{index}.png", deep)
    (train, _), (test, _), _ = read(root)
    images = torch.cat([train, test])
    assert images.shape == (6, 1, 12, 12)
    assert (images == 100).all()
    plain(root / "b" / "colour.png", value=100)
    (train, _), _, _ = read(root)
    assert train.shape[1] == 3
    assert (train == 100).all()


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


LAYOUT = "FOLDER/<class>/*.jpg, or FOLDER/train/<class>/*.jpg"


BOTH = "train/a=4 train/b=4 val/a=4 val/b=4"


@pytest.mark.parametrize(("layout", "words"), [
    ("1.png", ["{0} has no class folders", LAYOUT]),
    ("a=1 b=0", ["{0}/b has no pictures", ".jpg, .jpeg", LAYOUT]),
    ("a=3 b=1", ["class 'b' in {0} has one picture"]),
    ("train/a=3 train/b=3 test/a=3 test/c=3", ["{0}/train and {0}/test differ in b, c"]),
])  # fmt: skip
def test_wrong_folders_are_named(layout: str, words: list[str], tmp_path: Path) -> None:
    root = lay(tmp_path / "wrong", layout)
    told = [part.format(root) for part in words]
    refusal_of(lambda: load_images("folder", root, "train"), *told)


FORMATS = {
    "png": "1 L LA P RGB RGBA I;16",
    "jpg": "L RGB CMYK",
    "tiff": "1 L LA P PA RGB RGBA RGBX CMYK YCbCr LAB I;16 I F I;16B",
    "bmp": "1 L P RGB RGBA",
    "ppm": "1 L RGB I F",
    "webp": "L LA RGB RGBA P",
}
PAIRS = [(suffix, mode) for suffix, modes in FORMATS.items() for mode in modes.split()]
SIZES = st.tuples(st.integers(1, 70), st.integers(1, 70)) | st.sampled_from(
    [(1, 1), (70, 1), (70, 3), (1, 70), (3, 70), (2, 2), (64, 65)]
)


def in_mode(picture: Image.Image, mode: str) -> Image.Image:
    """Return a colour picture in a mode, grey and as deep as can be where Pillow makes none."""
    deep = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}
    if mode in deep:
        grey = np.asarray(picture.convert("L")).astype(np.int32)
        return Image.fromarray((grey * 257).astype(deep[mode]))
    if mode == "LAB":
        return Image.merge("LAB", picture.split())
    return (picture.convert("P") if mode == "PA" else picture).convert(mode)


@pytest.mark.parametrize(("suffix", "mode"), [pair for pair in PAIRS if pair[1] != "LAB"])
def test_every_mode_is_read_in_both_kinds_of_folder(suffix: str, mode: str, tmp_path: Path) -> None:
    """A picture half black, half white keeps its halves, whatever the file's mode."""
    picture = Image.new("RGB", (16, 16))
    picture.paste((255, 255, 255), (8, 0, 16, 16))
    for split, name in itertools.product(("train", "val"), ("a/0", "a/1", "b/0", "b/1")):
        stored(tmp_path / split / f"{name}.{suffix}", in_mode(picture, mode))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (images, _), _, _ = read(tmp_path)
        large = Reader(find_pictures(tmp_path, 16)[0], None)[torch.arange(4)]
    assert isinstance(large, tuple)
    for pixels in (images, large[0]):
        assert (pixels[..., :6] < 16).all(), "JPEG and WebP blur a little"
        assert (pixels[..., 10:] > 239).all()


def encoded(suffix: str, mode: str, size: tuple[int, int]) -> bytes:
    """Return a file of noise in a mode."""
    picture, stream = in_mode(noise(np.random.RandomState(0), *size), mode), io.BytesIO()
    picture.save(stream, {"jpg": "jpeg"}.get(suffix, suffix))
    return stream.getvalue()


@given(pair=st.sampled_from(PAIRS), shape=SIZES, data=st.data())
@examples(40)
def test_a_spoilt_picture_is_read_or_named(pair: Any, shape: Any, data: st.DataObject) -> None:
    content = bytearray(whole := encoded(*pair, shape))
    for _ in range(data.draw(st.integers(0, 6))):
        place = data.draw(st.integers(0, min(len(content), 400) - 1))
        content[place] = data.draw(st.sampled_from([0, 1, 255]) | st.integers(0, 255))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of odd headers
        root = lay(Path(name), BOTH)
        path = root / data.draw(st.sampled_from(["train", "val"])) / "a" / f"spoilt.{pair[0]}"
        path.write_bytes(content)
        try:
            images = read(root, data.draw(st.sampled_from([0, 1, 8, 32])))[0][0]
            assert 1 <= images.shape[2] == images.shape[3] <= 64
        except SettingsError as error:
            assert content != whole or pair[1] in ("LAB", "F"), "a mode that Pillow turns"
            one_line(error, str(path), "cannot be read as a picture", "repair or remove it")
        for epoch in (None, 1):
            batch = Reader(PictureFiles.of([(path, 0)], ("a",), 8), epoch)[torch.tensor([0])]
            if isinstance(batch, SettingsError):
                one_line(batch, str(path), "cannot be read as a picture")
            else:
                assert batch[0].shape == (1, 3, 8, 8)


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


@pytest.mark.parametrize("content", [b"", b"text", b"P6 9 9 255"])
@pytest.mark.parametrize("name", ["x.png", "b\udcff.jpg", "é ü.webp", "a" * 240 + ".bmp", "-.tif"])
def test_a_file_that_is_no_picture_is_named(content: bytes, name: str, tmp_path: Path) -> None:
    lay(tmp_path, BOTH)
    for split in ("train", "val"):
        (tmp_path / split / "a" / name).write_bytes(content)
    refusal_of(lambda: read(tmp_path), f"{name} cannot be read as a picture", "repair or remove it")
    files = find_pictures(tmp_path, 8)[0]
    batches = [Reader(files, None)[torch.tensor([index])] for index in range(len(files))]
    (error,) = (batch for batch in batches if isinstance(batch, SettingsError))
    one_line(error, name, "repair or remove it")


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
