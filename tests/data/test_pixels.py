"""Pixels of picture files by their values, whatever their depth and mode; what is no picture."""

import io
import itertools
import os
import struct
import subprocess
import tempfile
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzz_tools import Patch, Printed, examples, one_line, refusal_of
from hypothesis import given
from hypothesis import strategies as st
from picture_tools import lay, noise, plain, read, stored
from PIL import Image

from darts_lib.data import picture_folder
from darts_lib.data.imagenet_data import PictureFiles, Reader, find_pictures
from darts_lib.data.pixels import Scale, oddities, picture_bytes, survey
from darts_lib.engine.refusals import SettingsError

BOTH = "train/a=4 train/b=4 val/a=4 val/b=4"


def png(pixels: Any, *chunks: bytes) -> bytes:
    """Return a PNG of 16 bits: grey, grey with alpha, colour, or colour with alpha (last axis)."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    pixels = np.asarray(pixels)
    height, width, bands = (*pixels.shape, 1)[:3]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[bands]
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    middle = b"".join(chunk(each[:4], each[4:]) for each in chunks)
    body = head + middle + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(pixels: Any, dtype: str, form: int = 1, **tags: int) -> bytes:
    """Return a TIFF; its form is 1 for whole numbers from 0 on, 2 for all of them, 3 for floats."""
    data = np.asarray(pixels).astype(dtype)
    height, width, bands = (*data.shape, 1)[:3]
    entries = {256: width, 257: height, 258: 8 * data.itemsize, 259: 1, 262: 2 if bands > 1 else 1,
               273: 8, 277: bands, 278: height, 279: data.nbytes, 339: form}  # fmt: skip
    entries |= {int(name[1:]): value for name, value in tags.items()}
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, entries[tag]) for tag in sorted(entries))
    directory = struct.pack("<H", len(entries)) + rows + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + data.nbytes) + data.tobytes() + directory


def pnm(head: str, pixels: Any) -> bytes:
    return f"{head}\n".encode() + np.asarray(pixels).astype(">u2").tobytes()


def saved(pixels: Any, dtype: str = "", kind: str = "PNG", **options: Any) -> bytes:
    picture = Image.fromarray(np.asarray(pixels).astype(dtype)) if dtype else pixels
    picture.save(stream := io.BytesIO(), kind, **options)
    return stream.getvalue()


def in_bytes(folder: Path, *contents: bytes) -> tuple[list[Any], str]:
    """Return the bytes of pictures that are one set, and what is noted of it."""
    paths = [folder / f"{i}.png" for i in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seen = survey(paths, [])
        pictures = [picture_bytes(path, seen.channels, seen.scale) for path in paths]
    return [np.asarray(picture).tolist() for picture in pictures], "; ".join(seen.notes)


COLOURS = [[[0, 1000, 4095], [2000, 3000, 100]]]
IN_BYTES = [[[0, 62, 255], [125, 187, 6]]]
CLEAR = [[[*COLOURS[0][0], 65535], [65535, 65535, 65535, 0]]]
OVER_WHITE = [[[0, 62, 255], [255, 255, 255]]]


@pytest.mark.parametrize(("contents", "pixels"), [
    ([tiff([[0, 0.5]], "f4", 3), tiff([[0.5, 1]], "f4", 3)], [[[0, 128]], [[128, 255]]]),
    ([saved([[0, 0.25]], "f4", "TIFF"), saved([[0.5, 0.75]], "f4", "TIFF")],
     [[[0, 64]], [[128, 191]]]),
    ([tiff([[-1, 0, 1]], "f4", 3)], [[[0, 128, 255]]]),
    ([tiff([[0, 0.001]], "f4", 3), tiff([[0.002, 0.01]], "f4", 3)], [[[0, 26]], [[51, 255]]]),
    ([b"Pf 2 1 -1.0\n" + struct.pack("<ff", 0, 0.5)], [[[0, 128]]]),
    ([png([[100, 1000]]), png([[1900, 2000]])], [[[6, 62]], [[118, 125]]]),  # 12 bits
    ([png([[0, 65535]]), png([[257, 257 * 99]])], [[[0, 255]], [[1, 99]]]),
    ([png([[0, 255]]), png([[7, 99]])], [[[0, 255]], [[7, 99]]]),
    ([png([[60000, 60400]]), png([[60100, 60000]])], [[[0, 255]], [[64, 0]]]),
    ([png([[0, 1]]), tiff([[1, 0]], "i4", 2)], [[[0, 255]], [[255, 0]]]),
    ([png([[0, 1]]), png([[2, 2]])], [[[0, 128]], [[255, 255]]]),
    ([saved([[True, False]], "?")], [[[255, 0]]]),
    ([tiff([[0, 10**6]], "i4", 2), tiff([[500000, 1]], "i4", 2)], [[[0, 255]], [[128, 0]]]),
    ([tiff([[-1000, 0, 3000]], "i2", 2)], [[[0, 64, 255]]]),
    ([tiff([[-128, 0, 127]], "i1", 2)], [[[0, 128, 255]]]),
    ([tiff([[0, 2**31, 2**32 - 1]], "u4")], [[[0, 128, 255]]]),
    ([tiff([[0, 65535]], "u2", t262=0)], [[[255, 0]]]),  # where 0 is white
    ([pnm("P5 2 1 2000", [[0, 2000]]), pnm("P5 2 1 4000", [[0, 4000]])], [[[0, 125]], [[0, 249]]]),
    ([pnm("P6 2 1 4095", COLOURS)], [IN_BYTES]),
    ([b"P3 2 1 4095\n0 1000 4095 2000 3000 100"], [IN_BYTES]),
    ([png(COLOURS)], [IN_BYTES]),
    ([tiff(COLOURS, "u2")], [IN_BYTES]),
    ([png(CLEAR)], [OVER_WHITE]),
    ([tiff(CLEAR, "u2", t338=2)], [OVER_WHITE]),
    ([png([[[4000, 65535], [65535, 0]]])], [[[249, 255]]]),
    ([png([[4000, 9]], b"tRNS\0\x09")], [[[249, 255]]]),
    ([png([COLOURS[0], [[9, 9, 9]] * 2], b"tRNS" + b"\0\x09" * 3)], [[*IN_BYTES, [[255] * 3] * 2]]),
    ([png([[700, 700]])], [[[174, 174]]]),
    ([png([[100, 200]]), saved([[100, 200]], "u1")], [[[100, 200]]] * 2),
    ([saved(Image.new("CMYK", (1, 1), (0, 255, 255, 0)), kind="TIFF")], [[[[255, 0, 0]]]]),
    ([tiff([[[50, 100], [0, 0]]], "u1", t262=1, t338=1)], [[[255 - 50, 255]]]),  # multiplied by it
    ([saved(Image.new("P", (1, 1)), transparency=0)], [[[[255, 255, 255]]]]),
])  # fmt: skip
def test_deep_pixels_by_hand(contents: list[bytes], pixels: list[Any], tmp_path: Path) -> None:
    assert in_bytes(tmp_path, *contents)[0] == pixels


RGBA = np.zeros((2, 2, 4), np.uint8)
RGBA[0, 0] = 10, 20, 30, 255
FRAMES: Any = {"save_all": True, "append_images": [Image.new("L", (2, 2), 9)] * 2}


@pytest.mark.parametrize(("contents", "note"), [
    ([png([[9, 900]])], "1 of 1 picture have more than 8 bits, values 9 to 900: 0 to 1,023 is"),
    ([png([[9, 900]]), saved([[9, 8]], "u1")], "warning: 1 beside them have 8 bits"),
    ([saved(RGBA, "u1")] * 2, "2 pictures with transparency: laid over white"),
    ([saved([[0, 7], [7, 7]], "u1", "TIFF", **FRAMES)], "1 picture of several pages or frames:"),
    ([saved([[0, 7], [7, 7]], "u1", "GIF", **FRAMES)], "1 picture of several pages or frames:"),
    ([saved([[0, 7], [7, 7]], "u1", "WEBP", **FRAMES)], "1 picture of several pages or frames:"),
    ([saved([[1, 2, 3, 4]] * 2, "u1")], "1 picture longer than 3:2: only the square at the centre"),
    ([saved([[1, 2]] * 2, "u1")], ""),
])  # fmt: skip
def test_what_a_person_may_not_expect_is_told(
    contents: list[bytes], note: str, tmp_path: Path
) -> None:
    told = in_bytes(tmp_path, *contents)[1]
    assert note in told
    assert bool(note) == bool(told)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_what_nobody_sees_is_not_learnt(mode: str, tmp_path: Path) -> None:
    """Two pictures that look the same, over black and over light grey, are the same."""
    files = []
    for hidden in (0, 240):
        pixels = RGBA.copy()
        pixels[pixels[..., 3] == 0, :3] = hidden
        picture = Image.fromarray(pixels).convert(mode)
        files += [saved(np.asarray(picture), "u1")]
    first, second = in_bytes(tmp_path, *files)[0]
    assert first == second
    assert (np.array(first)[1] == 255).all()


GREY = np.arange(6).reshape(2, 3) * 40
UPRIGHT = (GREY, GREY[:, ::-1], GREY[::-1, ::-1], GREY[::-1], GREY.T, np.rot90(GREY, -1),
           GREY[::-1, ::-1].T, np.rot90(GREY))  # fmt: skip


@pytest.mark.parametrize(("orientation", "upright"), [*enumerate(UPRIGHT, 1)])
def test_every_form_is_turned_as_its_camera_was_held(
    orientation: int, upright: np.ndarray, tmp_path: Path
) -> None:
    (exif := Image.Exif())[0x0112] = orientation
    for dtype, scale in (("u1", Scale()), ("u2", Scale(0, 65535))):
        pixels = GREY * (257 if dtype == "u2" else 1)
        for content in (saved(pixels, dtype, exif=exif), tiff(pixels, dtype, t274=orientation)):
            (tmp_path / "x.png").write_bytes(content)
            found = np.asarray(picture_bytes(tmp_path / "x.png", 1, scale))
            assert found.tolist() == upright.tolist()


def test_both_forms_take_the_rule_of_the_training_pictures(tmp_path: Path, capsys: Printed) -> None:
    for name, top in (("train/a", 1000), ("train/b", 4000), ("val/a", 60000), ("val/b", 0)):
        for index in range(2):
            pixels = np.tile([[0, top]], (16, 8))
            stored(tmp_path / name / f"{index}.png", Image.fromarray(pixels.astype(np.uint16)))
    splits, _, scale = picture_folder.read(tmp_path)
    files, held_out = find_pictures(tmp_path, 16)
    assert scale == files.scale == held_out.scale == Scale(0, 4095)
    assert [images.amax((1, 2, 3)).unique().tolist() for images, _ in splits.values()] == [
        [62, 249],
        [0, 255],
    ]
    printed = capsys.readouterr().out
    assert printed.count("values 0 to 4,000: 0 to 4,095 is read as 0 to 255") == 2
    assert "warning: 2 of 8 pictures read are of one colour throughout" in printed


def test_a_set_without_anything_to_see_is_told() -> None:
    plain, many = torch.full((3, 3, 4, 4), 9, dtype=torch.uint8), torch.zeros(2, 1, 20, 20)
    assert oddities([plain], deep=False)[0].startswith("warning: all 3 pictures read are of one")
    many[0, 0, 0, 0] = 255  # one pixel that is broken, and all others lie in one level
    told = oddities([many.byte()], deep=True)
    assert "98 % of the pixels lie within 1 of 256 levels" in told[1]
    assert len(oddities([many.byte()], deep=False)) == 1


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize(("content", "words"), [
    (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    (b"", "empty"),
    (b"<!DOCTYPE html>", "a web page"),
    (b"\0\0\0\x18ftypheic", "in no form of"),
    (EPS, "a PDF or PostScript document"),
    (tiff([[0, float("nan")]], "f4", 3), "pixels that are no number"),
    (tiff([[0, float("inf")]], "f4", 3), "pixels that are no number"),
    (tiff([[0.5, 1]], "f8", 3), "in no form of"),
    (tiff([[[1, 2, 3, 4]]], "u2", t262=5), "store it as PNG"),
    (png(COLOURS)[:50], "cannot be read as a picture"),
    (png([[1]], b"zTXta\0\0" + zlib.compress(bytes(2**23))), "too large"),
    (pnm("P5 20000 20000 255", []), "20000 x 20000 pixels, more than 67 million"),
])  # fmt: skip
def test_what_is_no_picture_is_named_and_no_program_is_started(
    content: bytes, words: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    monkeypatch.setattr(os, "system", None)
    root = lay(tmp_path, BOTH)
    (bad := root / "train" / "a" / "z.png").write_bytes(content)
    for load in (read, find_pictures):
        refusal_of(lambda load=load: load(root), str(bad), words)
    batch = Reader(PictureFiles.of([(bad, 0)], ("a",), 8), None)[torch.tensor([0])]
    assert isinstance(batch, SettingsError)
    one_line(batch, str(bad), words)


@pytest.mark.parametrize(("kind", "size", "read_at"), [
    ("JPEG", (9000, 8000), (4500, 4000)),
    ("JPEG", (60000, 1200), (30000, 600)),
    ("PNG", (20000, 1), (100, 1)),  # as a square of 64 pixels a side it would be 82 million
])  # fmt: skip
def test_a_very_large_picture_is_made_smaller_and_never_fills_the_memory(
    kind: str, size: tuple[int, int], read_at: tuple[int, int], tmp_path: Path
) -> None:
    Image.new("L", size, 9).save(tmp_path / "x.png", kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert picture_bytes(tmp_path / "x.png", 1).size == read_at


def test_all_grey_pictures_have_one_channel_and_beside_colour_three(tmp_path: Path) -> None:
    root, deep = tmp_path / "grey", Image.fromarray(np.full((12, 12), 100 * 257, dtype=np.uint16))
    for index in range(2):
        plain(root / "a" / f"{index}.png", "L", value=100)
        stored(root / "b" / f"alpha{index}.png", Image.new("LA", (12, 12), (100, 255)))
        stored(root / "a" / f"deep{index}.png", deep)
    (train, _), (test, _), _ = read(root)
    images = torch.cat([train, test])
    assert images.shape == (6, 1, 12, 12)
    assert (images == 100).all()
    plain(root / "b" / "colour.png", value=100)
    (train, _), _, _ = read(root)
    assert train.shape[1] == 3
    assert (train == 100).all()


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


@pytest.mark.parametrize("content", [b"", b"text", b"P6 9 9 255"])
@pytest.mark.parametrize("name", ["x.png", "b\udcff.jpg", "é ü.webp", "a" * 240 + ".bmp", "-.tif"])
def test_a_file_that_is_no_picture_is_named(content: bytes, name: str, tmp_path: Path) -> None:
    lay(tmp_path, BOTH)
    for split in ("train", "val"):
        (tmp_path / split / "a" / name).write_bytes(content)
    for load in (read, find_pictures):
        told = f"{name} cannot be read as a picture ("
        refusal_of(lambda load=load: load(tmp_path), told, "repair or remove it")
