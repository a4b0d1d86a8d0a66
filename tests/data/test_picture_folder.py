"""Folders of made-up pictures: layouts, modes, sizes, the order, and what can be wrong."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from darts_lib.engine.batches import epoch_batches
from darts_lib.data.images import augment, halves, load_images
from darts_lib.data.picture_folder import read
from darts_lib.engine.refusals import SettingsError


def save(path: Path, mode: str = "RGB", size: tuple[int, int] = (12, 12), value: int = 102) -> None:
    """Save a picture of one value (102 is in every palette); `size` is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0], 3), value, dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def folder_of(root: Path, counts: dict[str, int], size: tuple[int, int] = (12, 12)) -> Path:
    """Make a class folder for each name with so many pictures, no two of one value in a class."""
    for name, count in counts.items():
        for index in range(count):
            save(root / name / f"{index:03}.png", size=size, value=index)
    return root


@pytest.fixture
def seven(tmp_path: Path) -> Path:
    """Return 7 classes of 20 pictures, mixed sizes and kinds of file."""
    root, rng = tmp_path / "seven", np.random.RandomState(0)
    for label in range(7):
        for index in range(20):
            width, height = rng.randint(24, 72, size=2)
            path = root / f"class {label}" / f"{index}.{('jpg', 'png', 'webp')[index % 3]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.randint(256, size=(height, width, 3)).astype(np.uint8)).save(path)
    return root


def test_seven_classes_of_twenty_run_from_the_folder_alone(
    seven: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = load_images("folder", seven, "train"), load_images("folder", seven, "test")
    assert (len(train), len(test)) == (112, 28)
    assert train.classes == tuple(f"class {label}" for label in range(7))
    assert train.labels.bincount().tolist() == [16] * 7
    assert test.labels.bincount().tolist() == [4] * 7
    side = train.size[0]
    assert 24 <= side <= 64
    assert (train.channels, train.size, train.flip, train.pad) == (3, (side, side), True, side // 8)
    assert (test.size, test.mean, test.std) == (train.size, train.mean, train.std)
    assert all(0.45 < mean < 0.55 for mean in train.mean)
    printed = capsys.readouterr().out.splitlines()[0]
    assert "112 training and 28 test pictures in 7 classes, 3 channels" in printed
    assert f"{side}x{side}" in printed
    generator = torch.Generator().manual_seed(0)
    for half in halves(train):
        for indices in epoch_batches(len(half), 32, generator):
            batch = augment(half.images[indices], half, 8, generator)
            assert batch.shape == (len(indices), 3, side, side)
            assert batch.isfinite().all()


def test_the_order_is_mixed_and_the_same_every_time(seven: Path) -> None:
    first, again = (load_images("folder", seven, "train") for _ in range(2))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, again.labels)
    assert first.select(slice(14)).labels.bincount(minlength=7).tolist() == [2] * 7
    assert (first.labels[:7].sort().values == torch.arange(7)).all()
    assert first.labels[:7].tolist() != first.labels[7:14].tolist()


def test_halves_share_uneven_classes_fairly(tmp_path: Path) -> None:
    counts = {"few": 3, "many": 40, "some": 10, "pair": 3}
    train = load_images("folder", folder_of(tmp_path / "uneven", counts), "train")
    first, second = (half.labels.bincount().tolist() for half in halves(train))
    assert train.classes == ("few", "many", "pair", "some")
    assert first == [1, 16, 1, 4]
    assert second == [1, 16, 1, 4]


def test_no_picture_is_in_both_splits_and_none_is_lost(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "split", {"a": 10, "b": 7, "c": 2})
    (train, train_labels), (test, test_labels), _ = read(root)
    found = [
        (int(label), int(image[0, 0, 0]))
        for images, labels in ((train, train_labels), (test, test_labels))
        for image, label in zip(images, labels, strict=True)
    ]
    assert sorted(found) == [(c, i) for c, count in enumerate((10, 7, 2)) for i in range(count)]
    assert test_labels.bincount().tolist() == [2, 1, 1]


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_a_test_folder_is_used_as_it_is(tmp_path: Path, held_out: str) -> None:
    root = tmp_path / "layout"
    folder_of(root / "train", {"a": 5, "b": 4})
    folder_of(root / held_out, {"a": 2, "b": 1})
    (_, train_labels), (_, test_labels), classes = read(root)
    assert classes == ("a", "b")
    assert train_labels.bincount().tolist() == [5, 4]
    assert test_labels.bincount().tolist() == [2, 1]


def test_a_train_folder_alone_is_split(tmp_path: Path) -> None:
    folder_of(tmp_path / "alone" / "train", {"a": 10, "b": 10})
    (train, _), (test, _), classes = read(tmp_path / "alone")
    assert (len(train), len(test), classes) == (16, 4, ("a", "b"))


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    _, _, classes = read(folder_of(tmp_path / "vehicles", {"bus": 3, "train": 3}))
    assert classes == ("bus", "train")


def test_hidden_and_other_files_are_left_out(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "mac", {"a": 3, "b": 3})
    (root / "a" / "._000.png").write_bytes(b"x")
    (root / "a" / "notes.txt").write_text("x")
    (root / ".ipynb_checkpoints").mkdir()
    (root / "README.txt").write_text("x")
    (train, _), (test, _), classes = read(root)
    assert (len(train) + len(test), classes) == (6, ("a", "b"))


# Pixels -----------------------------------------------------------------------------------------


def test_pictures_of_every_mode_become_colour(tmp_path: Path) -> None:
    root = tmp_path / "modes"
    for index in range(2):
        for mode in ("RGB", "RGBA", "L", "LA", "P"):
            save(root / "png" / f"{mode}{index}.png", mode)
        save(root / "png" / f"transparent{index}.png", "P")
        with Image.open(root / "png" / f"transparent{index}.png") as picture:
            picture.save(
                root / "png" / f"transparent{index}.png", transparency=bytes([0, 128, 255])
            )
        save(root / "jpg" / f"cmyk{index}.jpg", "CMYK")
        save(root / "jpg" / f"grey{index}.jpg", "L")
        save(root / "jpg" / f"bits{index}.png", "1", value=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (train, _), (test, _), _ = read(root)
    images = torch.cat([train, test])
    assert images.shape[1:] == (3, 12, 12)
    black = (images.flatten(1) == 0).all(dim=1)
    assert int(black.sum()) == 2
    assert ((images[~black].int() - 102).abs() <= 3).all()


def test_grey_pictures_have_one_channel_whatever_their_depth(tmp_path: Path) -> None:
    root = tmp_path / "grey"
    for index in range(2):
        save(root / "a" / f"8bit{index}.png", "L", value=100)
        save(root / "b" / f"alpha{index}.png", "LA", value=100)
        deep = np.full((12, 12), 100 * 257, dtype=np.uint16)
        Image.fromarray(deep).save(root / "a" / f"16bit{index}.png")
    (train, _), (test, _), _ = read(root)
    images = torch.cat([train, test])
    assert images.shape == (6, 1, 12, 12)
    assert (images == 100).all()
    assert load_images("folder", root, "train").std == (1.0,)


def test_the_centre_of_the_resized_picture_is_kept(tmp_path: Path) -> None:
    pixels = np.zeros((20, 60, 3), dtype=np.uint8)
    pixels[:, 20:40] = (200, 100, 50)
    for path in (tmp_path / "wide" / name / f"{i}.png" for name in "ab" for i in range(2)):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    (same, _), _, _ = read(tmp_path / "wide")
    assert same.shape[2:] == (20, 20)
    assert (same[0] == torch.tensor([200, 100, 50])[:, None, None]).all()
    (half, _), _, _ = read(tmp_path / "wide", size=10)
    assert half.shape[2:] == (10, 10)
    assert (half[0, :, :, 1:-1] == torch.tensor([200, 100, 50])[:, None, None]).all()


def test_a_camera_held_upright_gives_an_upright_picture(tmp_path: Path) -> None:
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # the orientation: turned by 180 degrees
    for path in (tmp_path / "phone" / name / f"{i}.png" for name in "ab" for i in range(2)):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, exif=exif)
    (images, _), _, _ = read(tmp_path / "phone")
    assert (images[0, :, :8] == 0).all()
    assert (images[0, :, 8:] == 255).all()


@pytest.mark.parametrize(
    ("sides", "size", "expected"),
    [
        ([(20, 30), (40, 20), (90, 80)], 0, 20),
        ([(300, 200), (200, 200), (90, 300)], 0, 64),
        ([(300, 200), (200, 200), (90, 300)], 96, 96),
    ],
)
def test_the_size_is_the_median_up_to_64_or_what_is_asked(
    tmp_path: Path,
    sides: list[tuple[int, int]],
    size: int,
    expected: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = tmp_path / "sizes"
    for name in "ab":
        for index, side in enumerate(sides):
            save(root / "train" / name / f"{index}.png", size=side)
        save(root / "val" / name / "0.png", size=(500, 500))
    (train, _), (test, _), _ = read(root, size)
    assert train.shape[2:] == test.shape[2:] == (expected, expected)
    assert f"read at {expected}x{expected} pixels" in capsys.readouterr().out


# What can be wrong ------------------------------------------------------------------------------


def refusal(root: Path) -> str:
    with pytest.raises(SettingsError) as caught:
        load_images("folder", root, "train")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_folder_is_named_with_the_layout(tmp_path: Path) -> None:
    message = refusal(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in message
    assert "FOLDER/<class>/*.jpg" in message
    assert "where data_root is FOLDER" in message


def test_a_folder_without_classes_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "flat" / "1.png")
    message = refusal(tmp_path / "flat")
    assert f"{tmp_path / 'flat'} has no class folders" in message
    assert "FOLDER/<class>/*.jpg" in message


def test_an_empty_class_is_named(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "empty", {"a": 3, "c": 3})
    (root / "b").mkdir()
    (root / "b" / "notes.txt").write_text("x")
    assert f"class folder {root / 'b'} has no pictures" in refusal(root)


def test_a_class_of_one_picture_cannot_be_split(tmp_path: Path) -> None:
    assert "class 'b'" in refusal(folder_of(tmp_path / "one", {"a": 3, "b": 1}))


def test_classes_that_differ_between_train_and_test_are_named(tmp_path: Path) -> None:
    root = tmp_path / "differ"
    folder_of(root / "train", {"a": 3, "b": 3})
    folder_of(root / "test", {"a": 3, "bb": 3})
    assert "differ in b, bb" in refusal(root)


@pytest.mark.parametrize("kind", ["cut off", "text", "empty"])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_an_unreadable_picture_is_named(tmp_path: Path, kind: str, suffix: str) -> None:
    root = folder_of(tmp_path / "broken", {"a": 4, "b": 4})
    path = root / "b" / f"broken.{suffix}"
    rng = np.random.RandomState(0)
    Image.fromarray(rng.randint(256, size=(40, 40, 3)).astype(np.uint8)).save(path)
    content = path.read_bytes()
    path.write_bytes(
        {"cut off": content[: len(content) // 2], "text": b"hello", "empty": b""}[kind]
    )
    message = refusal(root)
    assert f"{path} cannot be read as a picture" in message
    assert "remove it" in message
