"""Folders of pictures as people have them: read as promised, or named and refused."""

import io
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzz_tools import examples, one_line, refusal_of
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from darts_lib.data.imagenet_data import PictureFiles, Reader, find_pictures
from darts_lib.data.images import augment, halves, load_images
from darts_lib.data.picture_folder import read
from darts_lib.engine.refusals import SettingsError

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


@given(
    files=st.lists(st.tuples(st.sampled_from(PAIRS), SIZES), min_size=1, max_size=4),
    size=st.sampled_from([0, 0, 1, 7, 32]),
    seed=st.integers(0, 99),
)
@examples(20)
def test_pictures_of_every_kind_and_size_are_read(files: Any, size: int, seed: int) -> None:
    with fresh() as root:
        folders = classes(root, "")
        for number, ((suffix, mode), shape) in enumerate(files):
            content = encoded(suffix, mode, shape, seed + number)
            (folders[number % 2] / f"more{number}.{suffix}").write_bytes(content)
        try:
            train, test = (load_images("folder", root, split, size) for split in ("train", "test"))
        except SettingsError as error:
            one_line(error, "cannot be read as a picture", "more")
            assert any(mode in ("LAB", "F") for (_, mode), _ in files), "a mode that Pillow turns"
            return
    assert len(train) + len(test) == 8 + len(files)
    assert train.images.shape == (len(train), train.channels, *train.size)
    assert 1 <= train.size[0] == train.size[1] <= 64
    assert size in (0, train.size[0])
    for half in halves(train):
        assert augment(half.images, half, 3, torch.Generator().manual_seed(0)).isfinite().all()


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
@examples(20)
def test_a_spoilt_picture_is_read_or_named(pair: Any, shape: Any, data: st.DataObject) -> None:
    content = bytearray(encoded(*pair, shape, 0))
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
            read(root, 8)
        except SettingsError as error:
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


LAYOUT = st.dictionaries(
    st.sampled_from(["a", "b", ".c", "d e", "train", "val", "test", "x.png", "__MACOSX", "é"]),
    st.integers(0, 3) | st.none(),
    max_size=4,
)


@given(layouts=st.dictionaries(st.sampled_from(["", "train", "val", "test"]), LAYOUT, max_size=3))
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
