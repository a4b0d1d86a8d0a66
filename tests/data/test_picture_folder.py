"""Folders of pictures, made up and as people have them: read as promised, or named and refused."""

import io
import itertools
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzz_tools import Printed, examples, one_line, refusal_of
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from darts_lib.data.imagenet_data import PictureFiles, Reader, find_pictures
from darts_lib.data.images import halves, load_images
from darts_lib.data.picture_folder import in_channels, read
from darts_lib.engine.refusals import SettingsError


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


FORMATS = {
    "png": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "jpg": ("L", "RGB", "CMYK"),
    "tiff": ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "I;16", "I",
             "F", "I;16B"),
    "bmp": ("1", "L", "P", "RGB", "RGBA"),
    "ppm": ("1", "L", "RGB", "I", "F"),
    "webp": ("L", "LA", "RGB", "RGBA", "P"),
}  # fmt: skip
PAIRS = [(suffix, mode) for suffix, modes in FORMATS.items() for mode in modes]
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


def encoded(suffix: str, mode: str, size: tuple[int, int], seed: int) -> bytes:
    """Return a file of noise in a mode."""
    noise = np.random.RandomState(seed).randint(256, size=(size[1], size[0], 3)).astype(np.uint8)
    stream = io.BytesIO()
    in_mode(Image.fromarray(noise), mode).save(stream, {"jpg": "jpeg"}.get(suffix, suffix))
    return stream.getvalue()


@contextmanager
def fresh() -> Iterator[Path]:
    """Give an empty folder: hypothesis calls a test many times with one fixture."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def classes(root: Path, *splits: str, count: int = 4) -> list[Path]:
    """Fill two classes of each split with so many grey pictures each; return their folders."""
    folders = [root / split / name for split in splits for name in ("a", "b")]
    for folder in folders:
        folder.mkdir(parents=True)
        for value in range(count):
            Image.new("L", (6, 5), 40 * value).save(folder / f"{value}.png")
    return folders


@pytest.mark.parametrize(("suffix", "mode"), [pair for pair in PAIRS if pair[1] != "LAB"])
def test_every_mode_is_read_in_both_kinds_of_folder(suffix: str, mode: str, tmp_path: Path) -> None:
    """A picture half black, half white keeps its halves, whatever the file's mode."""
    picture = Image.new("RGB", (16, 16))
    picture.paste((255, 255, 255), (8, 0, 16, 16))
    for folder in classes(tmp_path, "train", "val", count=0):
        for number in range(2):
            in_mode(picture, mode).save(folder / f"{number}.{suffix}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (images, _), _, _ = read(tmp_path)
        large = Reader(find_pictures(tmp_path, 16)[0], None)[torch.arange(4)]
    assert isinstance(large, tuple)
    for pixels in (images, large[0]):
        assert (pixels[..., :6] < 16).all(), "JPEG and WebP blur a little"
        assert (pixels[..., 10:] > 239).all()


@given(pair=st.sampled_from(PAIRS), shape=SIZES, data=st.data())
@examples(40)
def test_a_spoilt_picture_is_read_or_named(pair: Any, shape: Any, data: st.DataObject) -> None:
    content = bytearray(whole := encoded(*pair, shape, 0))
    for _ in range(data.draw(st.integers(0, 6))):
        place = data.draw(st.integers(0, min(len(content), 400) - 1))
        content[place] = data.draw(st.sampled_from([0, 1, 255]) | st.integers(0, 255))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    with fresh() as root, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of odd headers
        path = classes(root, "train", "val")[data.draw(st.sampled_from([0, 2]))]
        path /= f"spoilt.{pair[0]}"
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
    for folder in classes(tmp_path, "train", "val"):
        NO_FILES[kind](folder / name)
    assert len(read(tmp_path)[0][0]) == len(find_pictures(tmp_path)[0]) == 8


CUT_OFF = [encoded(suffix, "RGB", (40, 40), 0)[:500] for suffix in ("jpg", "png")]


@pytest.mark.parametrize("content", [b"", b"text", b"P6 9 9 255", *CUT_OFF], ids=len)
@pytest.mark.parametrize("name", ["x.png", "b\udcff.jpg", "é ü.webp", "a" * 240 + ".bmp", "-.tif"])
def test_a_file_that_is_no_picture_is_named(content: bytes, name: str, tmp_path: Path) -> None:
    for folder in classes(tmp_path, "train", "val")[::2]:
        (folder / name).write_bytes(content)
    refusal_of(lambda: read(tmp_path), f"{name} cannot be read as a picture", "repair or remove it")
    files = find_pictures(tmp_path, 8)[0]
    batches = [Reader(files, None)[torch.tensor([index])] for index in range(len(files))]
    (error,) = (batch for batch in batches if isinstance(batch, SettingsError))
    one_line(error, name, "repair or remove it")


ENTRIES = st.dictionaries(
    st.sampled_from(["a", "b", ".c", "d e", "train", "val", "test", "x.png", "__MACOSX", "é"]),
    st.integers(0, 3) | st.none(),
    max_size=4,
)


@given(layouts=st.dictionaries(st.sampled_from(["", "train", "val", "test"]), ENTRIES, max_size=3))
@examples(20)
def test_any_layout_is_read_or_refused_by_name(layouts: dict[str, dict[str, int | None]]) -> None:
    """A count is a folder of so many pictures, None a file of text."""
    with fresh() as root:
        for split, layout in sorted(layouts.items(), reverse=True):  # what is a folder is no file
            for name, count in layout.items():
                place = root / split / name
                place.parent.mkdir(exist_ok=True)
                if count is None and not place.exists():
                    place.write_text("text")
                elif count is not None:
                    place.mkdir(exist_ok=True)
                    for number in range(count):
                        Image.new("L", (3, 2), number).save(place / f"{number}.png")
        for load in (lambda: read(root), lambda: find_pictures(root, 8)):
            try:
                load()
            except SettingsError as error:
                one_line(error, str(root))


@pytest.mark.parametrize("root", ["~nobody/x", "a link to itself", "x" * 300, "x/" * 3000])
def test_a_folder_that_cannot_be_is_named(root: str, tmp_path: Path) -> None:
    NO_FILES["a link to itself"](tmp_path / "a link to itself")
    path = Path(root) if root.startswith("~") else tmp_path / root
    for load in (lambda: load_images("folder", path, "train"), lambda: find_pictures(path)):
        with pytest.raises(SettingsError, match="is not there"):
            load()


@given(
    content=st.binary(max_size=80) | st.text(max_size=40).map(lambda x: x.encode("utf-8", "ignore"))
)
@examples(20)
def test_labels_of_any_bytes_are_read_or_named(content: bytes) -> None:
    with fresh() as root:
        classes(root, "train")
        (root / "val").mkdir()
        Image.new("L", (6, 5)).save(root / "val" / "1.png")
        for name in ("val_labels.txt", "ILSVRC2012_validation_ground_truth.txt"):
            (root / name).write_bytes(content)
            refusal_of(lambda: find_pictures(root), str(root))
            (root / name).unlink()
