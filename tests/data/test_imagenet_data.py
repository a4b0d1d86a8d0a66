"""Folders like ImageNet: both forms found and checked, every mode read, random numbers a picture's.

The pictures are made here: a colour a class, in every mode that a file may have.
"""

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torch import Tensor

from darts_lib.data.imagenet_data import (
    MEAN,
    STD,
    PictureFiles,
    Reader,
    clean_transform,
    find_pictures,
    read_batches,
)
from darts_lib.data.imagenet_labels import TRUTH
from darts_lib.engine.refusals import SettingsError

CLASSES = {"n01": (200, 40, 40), "n02": (40, 200, 40), "n03": (40, 40, 200)}
CPU = torch.device("cpu")


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


def names(files: PictureFiles) -> dict[str, str]:
    """Return the class of each file, by its name."""
    labels = [files.classes[label] for label in files.labels.tolist()]
    return {Path(path.decode()).name: c for path, c in zip(files.paths, labels, strict=True)}


# What is found ----------------------------------------------------------------------------------


def test_class_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, test = find_pictures(make(tmp_path), 32)
    assert train.classes == test.classes == tuple(CLASSES)
    assert (len(train), len(test), train.size, train.channels) == (12, 6, (32, 32), 3)
    assert all(name.startswith(label) for name, label in names(train).items())
    said = capsys.readouterr().out
    assert "12 training and 6 test pictures in 3 classes" in said
    assert "labels of val from its class folders" in said


def csv(root: Path) -> Path:
    file = root / "LOC_val_solution.csv"
    rows = [f"ILSVRC2012_val_{i + 1:08},n0{i % 3 + 1} 1 2 3 4 n09 1 2 3 4" for i in range(6)]
    file.write_text("ImageId,PredictionString\n" + "\n".join(rows) + "\n")
    return file


def text(root: Path) -> Path:
    file = root / "val" / "val_labels.txt"
    rows = [f"ILSVRC2012_val_{i + 1:08}.JPEG n0{i % 3 + 1}" for i in range(6)]
    file.write_text("\n".join(rows))
    return file


def kit_inside(root: Path) -> Path:
    kit(root / "ILSVRC2012_devkit_t12" / "data")
    return root / "ILSVRC2012_devkit_t12" / "data" / TRUTH


def kit_beside(root: Path) -> Path:
    kit(root.parent)
    return root.parent / TRUTH


@pytest.mark.parametrize("labels", [csv, text, kit_inside, kit_beside])
def test_a_flat_validation_folder_gets_the_labels_of_its_file(
    labels: Callable[[Path], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make(tmp_path / "data", flat=True)
    source = labels(root)
    _, test = find_pictures(root, 32)
    # By what is in the picture, not by our own arithmetic: the class's channel is the bright one.
    images, found = Reader(test, None)[torch.arange(len(test))]
    assert torch.equal(images.float().mean(dim=(2, 3)).argmax(dim=1), found)
    assert sorted(found.tolist()) == [0, 0, 1, 1, 2, 2]
    assert f"labels of val from {source}" in capsys.readouterr().out


def test_tiny_imagenets_form(tmp_path: Path) -> None:
    root = make(tmp_path)
    for folder in (root / "val").iterdir():
        for file in folder.iterdir():
            save(root / "val" / "images" / file.name)
            file.unlink()
        folder.rmdir()
    rows = [f"ILSVRC2012_val_{i + 1:08}.JPEG\tn0{i % 3 + 1}\t0\t0\t9\t9\n" for i in range(6)]
    (root / "val" / "val_annotations.txt").write_text("".join(rows))
    assert names(find_pictures(root)[1])["ILSVRC2012_val_00000005.JPEG"] == "n02"


def test_fewer_training_pictures_are_of_every_class(tmp_path: Path) -> None:
    train, test = find_pictures(make(tmp_path, 8), 32, max_images=6)
    assert train.labels.bincount().tolist() == [2, 2, 2]
    assert len(test) == 6


# What is refused --------------------------------------------------------------------------------


def remove(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def lose_class(root: Path) -> None:
    remove(root / "val" / "n02")


def empty_class(root: Path) -> None:
    for file in (root / "train" / "n02").iterdir():
        file.unlink()


def no_val(root: Path) -> None:
    for name in CLASSES:
        remove(root / "val" / name)


def no_train(root: Path) -> None:
    for name in CLASSES:
        remove(root / "train" / name)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lose_class, ["train", "val", "differ in n02", "same folders"]),
        (empty_class, ["train/n02 has no pictures", "add some"]),
        (no_val, ["val has no pictures to test on", "FOLDER/val"]),
        (no_train, ["train has no class folders", "FOLDER/train/<class>"]),
    ],
)
def test_wrong_folders_are_named(
    spoil: Callable[[Path], None], words: list[str], tmp_path: Path
) -> None:
    root = make(tmp_path)
    spoil(root)
    refused(root, words)


def refused(root: Path, words: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        find_pictures(root)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", ["nowhere is not there", "FOLDER/train"])


def text_of(root: Path, lines: str) -> None:
    (root / "val_labels.txt").write_text(lines)


FIVE = "".join(f"ILSVRC2012_val_{i + 1:08}.JPEG n0{i % 3 + 1}\n" for i in range(5))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda root: None, [TRUTH, "LOC_val_solution.csv", "val/<class>"]),
        (lambda root: text_of(root, FIVE), ["labels 5", "there are 6", "00000006 has no label"]),
        (
            lambda root: text_of(root, FIVE + "ILSVRC2012_val_00000006.JPEG n03\nmore.JPEG n01\n"),
            ["labels 7", "there are 6", "more has no picture"],
        ),
        (
            lambda root: text_of(root, FIVE + "ILSVRC2012_val_00000006.JPEG n07\n"),
            ["differ in 1, n07", "train/ needs a folder"],
        ),
        (lambda root: text_of(root, FIVE.replace("n03", "n01") + "ILSVRC2012_val_00000006 n01"),
         ["differ in 1, n03"]),
        (lambda root: text_of(root, FIVE + "n03\n"), ["line 6", "'n03' is not 'file class'"]),
        (lambda root: kit(root, "3\n1\n2\n3\n1\n"), ["labels 5", "there are 6"]),
        (lambda root: kit(root, "3\n1\n2\n3\n1\n77\n"), ["line 6", "'77' is no ILSVRC2012_ID"]),
        (lambda root: kit(root, "3\n1\n2\n3\n1\n4\n"), ["differ in 1, n00"]),
        (lambda root: (root / TRUTH).write_text("1\n"), ["meta.mat", "cannot be read"]),
    ],
)  # fmt: skip
def test_wrong_labels_are_named(
    spoil: Callable[[Path], object], words: list[str], tmp_path: Path
) -> None:
    root = make(tmp_path, flat=True)
    spoil(root)
    refused(root, words)


def test_a_damaged_meta_mat_is_named(tmp_path: Path) -> None:
    root = make(tmp_path, flat=True)
    kit(root)
    whole = (root / "meta.mat").read_bytes()
    for content in (whole[:200], b"no such thing", b""):
        (root / "meta.mat").write_bytes(content)
        refused(root, ["meta.mat", "take it from the development kit"])


# Pictures ---------------------------------------------------------------------------------------


def test_every_mode_becomes_rgb(tmp_path: Path) -> None:
    root = make(tmp_path)
    grey = Image.fromarray(np.full((50, 60), 128, np.uint8))
    pictures = {
        "grey.jpg": grey,
        "cmyk.jpg": Image.new("CMYK", (50, 60), (0, 255, 255, 0)),
        "palette.png": Image.new("RGB", (50, 60), (255, 0, 0)).quantize(4),
        "sixteen.png": Image.fromarray(np.full((50, 60), 128 << 8, np.uint16)),
        "alpha.png": Image.new("RGBA", (50, 60), (255, 0, 0, 9)),
        "bits.png": Image.new("1", (50, 60), 1),
    }
    for name, picture in pictures.items():
        picture.save(root / "train" / "n01" / name)
    train, _ = find_pictures(root, 32)
    images, _ = Reader(train, None)[torch.arange(len(train))]
    means = dict(zip(names(train), images.float().mean(dim=(2, 3)).tolist(), strict=True))
    for name in ("grey.jpg", "sixteen.png"):
        assert means[name] == pytest.approx([128, 128, 128], abs=1.5)
    for name in ("cmyk.jpg", "palette.png", "alpha.png"):
        assert means[name] == pytest.approx([255, 0, 0], abs=4)
    assert means["bits.png"] == [255, 255, 255]


def test_a_test_picture_is_the_centre_of_the_smaller_side_at_256() -> None:
    ramp = np.tile(np.arange(512, dtype=np.uint8)[:, None, None] // 2, (1, 600, 3))
    tall = np.zeros((512, 600, 3), np.uint8) + ramp
    image: Tensor = clean_transform(224)(Image.fromarray(tall))
    assert image.shape == (3, 224, 224)
    half = Image.fromarray(tall).resize((300, 256), Image.Resampling.BILINEAR)
    by_hand = np.asarray(half)[16:240, 38:262]
    assert np.array_equal(image.permute(1, 2, 0).numpy(), by_hand)


def test_batches_are_normalised_with_imagenets_figures(tmp_path: Path) -> None:
    _, test = find_pictures(make(tmp_path), 32)
    raw, labels = Reader(test, None)[torch.arange(6)]
    (images, same), = read_batches(test, [torch.arange(6)], 0, CPU)  # fmt: skip
    assert raw.dtype == torch.uint8
    assert images.dtype == torch.float32
    by_hand = (raw.double() / 255 - torch.tensor(MEAN).double()[:, None, None]) / torch.tensor(
        STD
    ).double()[:, None, None]
    torch.testing.assert_close(images.double(), by_hand, rtol=1e-5, atol=1e-6)
    assert torch.equal(labels, same)


# Random numbers ---------------------------------------------------------------------------------

ORDER = [torch.tensor([3, 0, 7]), torch.tensor([1, 2, 5]), torch.tensor([4, 6])]


def read(files: PictureFiles, workers: int, seed: int | None, order: list[Tensor]) -> list[Tensor]:
    return [images for images, _ in read_batches(files, order, workers, CPU, seed)]


def test_workers_change_no_bit(tmp_path: Path) -> None:
    train, _ = find_pictures(make(tmp_path), 32)
    alone, shared = read(train, 0, 9, ORDER), read(train, 2, 9, ORDER)
    assert len(alone) == len(shared) == 3
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))


def test_a_pictures_randomness_is_of_its_seed_and_index_alone(tmp_path: Path) -> None:
    train, _ = find_pictures(make(tmp_path), 32)
    first = torch.cat(read(train, 0, 9, ORDER))
    torch.rand(3)
    again = torch.cat(read(train, 0, 9, [torch.cat(ORDER).flip(0)])).flip(0)
    assert torch.equal(first, again), "neither the batch nor the place in it counts"
    other = torch.cat(read(train, 0, 10, ORDER))
    assert all(not torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_the_same_picture_twice_is_augmented_in_two_ways(tmp_path: Path) -> None:
    root = make(tmp_path)
    file = root / "train" / "n01" / "n01_0.JPEG"
    for i in range(6):
        (file.parent / f"copy{i}.JPEG").write_bytes(file.read_bytes())
    train, _ = find_pictures(root, 32)
    same = [i for i, name in enumerate(names(train)) if name.startswith("copy")]
    images = read(train, 0, 9, [torch.tensor(same)])[0]
    assert len({image.numpy().tobytes() for image in images}) == 6


def test_reading_draws_nothing_from_the_generator_of_training(tmp_path: Path) -> None:
    train, _ = find_pictures(make(tmp_path), 32)
    torch.manual_seed(4)
    expected = torch.rand(5)
    for workers in (0, 2):
        torch.manual_seed(4)
        read(train, workers, 9, ORDER)
        assert torch.equal(torch.rand(5), expected)


# What goes wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_a_picture_that_cannot_be_read_is_named_and_no_worker_stays(
    workers: int, content: bytes | None, tmp_path: Path
) -> None:
    root = make(tmp_path)
    file = root / "train" / "n02" / "n02_1.JPEG"
    file.write_bytes(file.read_bytes()[:400] if content is None else content)
    train, _ = find_pictures(root, 32)
    order = [torch.arange(i, i + 4) for i in (0, 4, 8)]
    with pytest.raises(SettingsError) as caught:
        read(train, workers, 9, order)
    message = str(caught.value)
    assert str(file) in message
    assert "repair or remove it" in message
    assert "\n" not in message
    assert not multiprocessing.active_children()


def test_a_reading_that_is_closed_leaves_no_worker(tmp_path: Path) -> None:
    train, _ = find_pictures(make(tmp_path), 32)
    reading = read_batches(train, ORDER, 2, CPU, 9)
    next(reading)
    assert len(multiprocessing.active_children()) == 2
    reading.close()
    assert not multiprocessing.active_children()
