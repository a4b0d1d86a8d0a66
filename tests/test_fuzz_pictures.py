"""Folders of pictures and text files as people have them: read as promised, or named and refused.

`test_picture_folder.py`, `test_imagenet_data.py` and `test_recurrent_text.py` say what is promised.
"""

import functools
import io
import itertools
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fuzz_tools import examples, one_line
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from darts_lib.data.imagenet_data import PictureFiles, Reader, find_pictures
from darts_lib.data.images import ImageSet, augment, halves, load_images
from darts_lib.data.picture_folder import read
from darts_lib.data.text import END, SPLITS, batchify, load_text, segments
from darts_lib.engine.batches import epoch_batches
from darts_lib.engine.refusals import SettingsError

# What files hold --------------------------------------------------------------------------------

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


def encoded(suffix: str, mode: str, size: tuple[int, int], seed: int) -> bytes:
    """Return a file of noise in a mode, or another mode that the format has."""
    rng = np.random.RandomState(seed)
    width, height = size
    noise = Image.fromarray(rng.randint(256, size=(height, width, 3)).astype(np.uint8))
    if mode in ("I;16", "I;16B", "I"):
        kind = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode]
        picture = Image.fromarray(rng.randint(65536, size=(height, width)).astype(kind))
    elif mode == "LAB":
        picture = Image.merge("LAB", noise.split())
    elif mode == "PA":
        picture = noise.convert("P").convert("PA")
    else:
        picture = noise.convert(mode)
    stream = io.BytesIO()
    picture.save(stream, {"jpg": "jpeg"}.get(suffix, suffix))
    return stream.getvalue()


@functools.cache
def _numbers() -> Iterator[int]:
    return itertools.count()


def fresh(factory: pytest.TempPathFactory) -> Path:
    """Return an empty folder: hypothesis calls a test many times with one fixture."""
    root = factory.getbasetemp() / f"fuzz{next(_numbers())}"
    root.mkdir()
    return root


def classes(root: Path, split: str = "") -> list[Path]:
    """Fill two classes with four grey pictures each; return their folders."""
    folders = [root / split / name for name in ("a", "b")]
    for folder, value in itertools.product(folders, range(4)):
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (6, 5), 40 * value).save(folder / f"{value}.png")
    return folders


def check_set(images: ImageSet, count: int) -> None:
    assert images.images.dtype == torch.uint8
    assert images.images.shape == (count, images.channels, *images.size)
    assert len(images.labels) == count
    assert all(0 <= mean <= 1 for mean in images.mean)
    assert all(std > 0 for std in images.std)
    generator = torch.Generator().manual_seed(0)
    for half in halves(images):
        for indices in epoch_batches(len(half), 2, generator):
            assert augment(half.images[indices], half, 3, generator).isfinite().all()


@given(
    files=st.lists(st.tuples(st.sampled_from(PAIRS), SIZES), min_size=1, max_size=4),
    size=st.sampled_from([0, 0, 1, 7, 32]),
    seed=st.integers(0, 99),
)
@examples(40)
def test_pictures_of_every_kind_and_size_are_read(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[tuple[tuple[str, str], tuple[int, int]]],
    size: int,
    seed: int,
) -> None:
    root = fresh(tmp_path_factory)
    folders = classes(root)
    for number, ((suffix, mode), shape) in enumerate(files):
        content = encoded(suffix, mode, shape, seed + number)
        (folders[number % 2] / f"more{number}.{suffix}").write_bytes(content)
    try:
        train = load_images("folder", root, "train", size)
        test = load_images("folder", root, "test", size)
    except SettingsError as error:
        one_line(error, "cannot be read as a picture", "more")
        assert any(mode in ("LAB", "F") for (_, mode), _ in files), "a mode that Pillow turns"
        return
    finally:
        shutil.rmtree(root)
    assert len(train) + len(test) == 8 + len(files)
    check_set(train, len(train))
    assert train.size == ((size, size) if size else train.size)
    assert 1 <= train.size[0] <= 64


@pytest.mark.parametrize(("suffix", "mode"), [pair for pair in PAIRS if pair[1] != "LAB"])
def test_every_mode_is_read_in_both_kinds_of_folder(suffix: str, mode: str, tmp_path: Path) -> None:
    """A picture half black, half white keeps its halves, whatever the file's mode."""
    dark = Image.new("L", (16, 16))
    dark.paste(255, (8, 0, 16, 16))
    kinds = {"I;16": np.uint16, "I;16B": ">u2", "I": np.int32}
    if mode in kinds:
        picture = Image.fromarray((np.asarray(dark).astype(np.int32) * 257).astype(kinds[mode]))
    else:
        colours = dark.convert("RGB")
        picture = (colours.convert("P") if mode == "PA" else colours).convert(mode)
    folders = [*classes(tmp_path, "train"), *classes(tmp_path, "val")]
    for folder in folders:
        shutil.rmtree(folder)
        folder.mkdir()
        for number in range(2):
            picture.save(folder / f"{number}.{suffix}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (images, _), _, _ = read(tmp_path)
        large = Reader(find_pictures(tmp_path, 16)[0], None)[torch.arange(4)]
    assert isinstance(large, tuple)
    for found in (images, large[0]):
        assert (found[..., :6] < 16).all(), "JPEG and WebP blur a little"
        assert (found[..., 10:] > 239).all()


# What is wrong with files -----------------------------------------------------------------------


@given(
    pair=st.sampled_from(PAIRS),
    shape=SIZES,
    data=st.data(),
)
@examples(60)
def test_a_spoilt_picture_is_read_or_named(
    tmp_path_factory: pytest.TempPathFactory,
    pair: tuple[str, str],
    shape: tuple[int, int],
    data: st.DataObject,
) -> None:
    root = fresh(tmp_path_factory)
    folders = classes(root, "train") + classes(root, "val")
    content = bytearray(encoded(*pair, shape, 0))
    for _ in range(data.draw(st.integers(0, 6))):
        content[data.draw(st.integers(0, min(len(content), 400) - 1))] = data.draw(
            st.sampled_from([0, 1, 255]) | st.integers(0, 255)
        )
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    path = folders[data.draw(st.sampled_from([0, 2]))] / f"spoilt.{pair[0]}"
    path.write_bytes(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of odd headers
            _read_both(root, path)
    finally:
        shutil.rmtree(root)


def _read_both(root: Path, path: Path) -> None:
    try:
        read(root, 8)
    except SettingsError as error:
        one_line(error, str(path), "cannot be read as a picture", "repair or remove it")
    files = PictureFiles.of([(path, 0)], ("a",), 8)
    for epoch in (None, 1):
        found = Reader(files, epoch)[torch.tensor([0])]
        if isinstance(found, SettingsError):
            one_line(found, str(path), "cannot be read as a picture")
        else:
            assert found[0].shape == (1, 3, 8, 8)


def a_folder(path: Path) -> None:
    path.mkdir()


def a_link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def a_link_to_nothing(path: Path) -> None:
    path.symlink_to("nowhere.png")


def a_link_to_the_folder_above(path: Path) -> None:
    path.symlink_to("..")


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    "make",
    [a_folder, a_link_to_itself, a_link_to_nothing, a_link_to_the_folder_above, a_pipe],
)
@pytest.mark.parametrize("name", ["x.png", ".hidden.png", "x.JPEG", "b\udcff.jpg"])
def test_what_is_no_file_is_no_picture(
    make: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    for split in ("train", "val"):
        for folder in classes(tmp_path, split):
            make(folder / name)
    (images, _), _, _ = read(tmp_path)
    assert len(images) == 8
    assert len(find_pictures(tmp_path)[0]) == 8


def test_a_link_to_a_picture_is_one_and_hidden_files_are_none(tmp_path: Path) -> None:
    folder, _ = classes(tmp_path / "pictures")
    (folder / "link.png").symlink_to("0.png")
    (folder / ".hidden.png").write_bytes(b"no picture")
    (folder / "deep" / "er").mkdir(parents=True)
    Image.new("L", (6, 5)).save(folder / "deep" / "er" / "x.PNG")
    (train, _), (test, _), _ = read(tmp_path / "pictures")
    assert len(train) + len(test) == 10


@pytest.mark.parametrize(
    "content", [b"", b"text", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"P6 9 9 255"]
)
@pytest.mark.parametrize("name", ["x.png", "b\udcff.jpg", "é ü.webp", "a" * 240 + ".bmp", "-.tif"])
def test_a_file_that_is_no_picture_is_named(content: bytes, name: str, tmp_path: Path) -> None:
    for split in ("train", "val"):
        folder, _ = classes(tmp_path, split)
        (folder / name).write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        read(tmp_path)
    one_line(caught.value, name, "repair or remove it")
    files = find_pictures(tmp_path, 8)[0]
    found = [Reader(files, None)[torch.tensor([index])] for index in range(len(files))]
    (error,) = (each for each in found if isinstance(each, SettingsError))
    one_line(error, name, "repair or remove it")


LAYOUT = st.dictionaries(
    st.sampled_from(["a", "b", ".c", "d e", "train", "val", "test", "x.png", "__MACOSX", "é"]),
    st.integers(0, 3) | st.none(),
    max_size=4,
)


@given(layouts=st.dictionaries(st.sampled_from(["", "train", "val", "test"]), LAYOUT, max_size=3))
@examples(60)
def test_any_layout_is_read_or_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, layouts: dict[str, dict[str, int | None]]
) -> None:
    """A count is a folder of so many pictures, None a file of text."""
    root = fresh(tmp_path_factory)
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
    shutil.rmtree(root)


@pytest.mark.parametrize("root", ["~nobody-of-this-name/x", "", "x" * 300, "x/" * 3000])
def test_a_folder_that_cannot_be_is_named(root: str, tmp_path: Path) -> None:
    path = Path(root) if root.startswith("~") else tmp_path / "none" / root
    for load in (lambda: load_images("folder", path, "train"), lambda: find_pictures(path)):
        with pytest.raises(SettingsError, match="is not there"):
            load()


def test_a_link_to_itself_is_no_folder_of_pictures(tmp_path: Path) -> None:
    a_link_to_itself(tmp_path / "x")
    for load in (
        lambda: load_images("folder", tmp_path / "x", "train"),
        lambda: find_pictures(tmp_path / "x"),
    ):
        with pytest.raises(SettingsError, match="is not there"):
            load()


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_table_of_labels_may_begin_with_a_mark(mark: str, tmp_path: Path) -> None:
    classes(tmp_path, "train")
    (tmp_path / "val").mkdir()
    for name in ("1", "2"):
        Image.new("L", (6, 5)).save(tmp_path / "val" / f"{name}.png")
    table = tmp_path / "LOC_val_solution.csv"
    table.write_text(f"{mark}ImageId,PredictionString\n1,a 1 2 3 4\n2,b 1 2 3 4\n", "utf-8")
    assert len(find_pictures(tmp_path)[1]) == 2


@given(
    content=st.binary(max_size=80)
    | st.text(max_size=40).map(lambda text: text.encode("utf-8", "ignore"))
)
@examples(40)
def test_labels_of_any_bytes_are_read_or_named(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    root = fresh(tmp_path_factory)
    classes(root, "train")
    (root / "val").mkdir()
    Image.new("L", (6, 5)).save(root / "val" / "1.png")
    for name in ("val_labels.txt", "ILSVRC2012_validation_ground_truth.txt"):
        (root / name).write_bytes(content)
        with pytest.raises(SettingsError) as caught:
            find_pictures(root)
        one_line(caught.value, str(root))
        (root / name).unlink()
    shutil.rmtree(root)


# Text files -------------------------------------------------------------------------------------

LINES = st.lists(
    st.text(
        alphabet=st.characters(exclude_categories=["Cs"]) | st.sampled_from("ab \t\u3000\xa0é\x85"),
        max_size=12,
    ),
    max_size=6,
)


def expected(text: str) -> list[str]:
    """Return the words as promised: split at blanks, with an end after each line."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if not lines[-1].strip():
        lines.pop()
    return [word for line in lines for word in [*line.split(), END]]


@given(
    lines=LINES,
    ending=st.sampled_from(["\n", "\r\n", "\r"]),
    last=st.booleans(),
    encoding=st.sampled_from(
        ["utf-8", "utf-8-sig", "latin-1", "utf-16", "utf-16-le", "utf-32-be", "cp037"]
    ),
    split=st.sampled_from(SPLITS),
)
@examples(120)
def test_a_text_in_any_encoding_is_read_right_or_named(
    tmp_path_factory: pytest.TempPathFactory,
    lines: list[str],
    ending: str,
    last: bool,
    encoding: str,
    split: str,
) -> None:
    root = fresh(tmp_path_factory)
    text = ending.join(lines) + ending * last
    for each in SPLITS:
        (root / f"{each}.txt").write_text("a b\n")
    file = root / f"{split}.txt"
    content = text.encode(encoding, "replace")
    file.write_bytes(content)
    try:
        corpus = load_text("folder", root)
    except SettingsError as error:
        one_line(error, str(file))
        bare = text.removeprefix("\ufeff")
        nothing = all(word == END for word in expected(bare))
        assert nothing or "\0" in text or not encoding.startswith("utf-8")
    else:
        found = [corpus.words[i] for i in getattr(corpus, split)]
        read_as = content.decode("utf-8-sig")
        assert found == expected(read_as)
        assert "\0" not in read_as
        assert encoding.startswith("utf-8") or content.isascii() or encoding in ("latin-1", "cp037")
        columns = batchify(corpus.train, 1)
        assert sum(length for _, length in segments(len(columns), 3)) == len(columns) - 1
    finally:
        shutil.rmtree(root)


def lay(root: Path, **contents: bytes) -> Path:
    for split in SPLITS:
        (root / f"{split}.txt").write_bytes(contents.get(split, b"a b\n"))
    return root


def test_the_mark_before_a_text_is_no_part_of_its_first_word(tmp_path: Path) -> None:
    corpus = load_text("folder", lay(tmp_path, train=b"\xef\xbb\xbfthe cat\n", valid=b"the\n"))
    assert corpus.words[0] == "the"
    assert corpus.words[int(corpus.valid[0])] == "the"


def test_a_text_of_two_bytes_a_letter_is_refused_though_it_is_valid_utf_8(tmp_path: Path) -> None:
    lay(tmp_path, valid="the cat".encode("utf-16-le"))
    with pytest.raises(SettingsError, match=r"valid\.txt is not UTF-8 text \(NUL, as in UTF-16\)"):
        load_text("folder", tmp_path)


def test_a_long_line_and_a_single_word(tmp_path: Path) -> None:
    corpus = load_text("folder", lay(tmp_path, train=b"ab " * 300_000, valid=b"x" * 10**6))
    assert len(corpus.train) == 300_001
    assert len(corpus.valid) == 2
    with pytest.raises(SettingsError, match="2 tokens is too short for valid_batch_size=3"):
        batchify(corpus.valid, 3, "valid_batch_size")


@pytest.mark.parametrize("make", [a_folder, a_link_to_itself, a_link_to_nothing, None])
@pytest.mark.parametrize("split", SPLITS)
def test_a_text_that_is_no_file_is_named(
    make: Callable[[Path], None] | None, split: str, tmp_path: Path
) -> None:
    file = lay(tmp_path) / f"{split}.txt"
    file.unlink()
    if make:
        make(file)
    with pytest.raises(SettingsError) as caught:
        load_text("folder", tmp_path)
    one_line(caught.value, str(file), "cannot be read")


@example(spread=1e308, bptt=35, rows=300)
@given(spread=st.floats(0, 1e308), bptt=st.integers(2, 99), rows=st.integers(2, 300))
@examples(40)
def test_segments_of_any_spread_cover_the_text(spread: float, bptt: int, rows: int) -> None:
    cut = segments(rows, bptt, torch.Generator().manual_seed(bptt), spread)
    assert sum(length for _, length in cut) == rows - 1
    assert all(1 <= length <= bptt + 20 for _, length in cut)
