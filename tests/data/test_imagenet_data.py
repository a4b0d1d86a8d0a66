"""Folders like ImageNet: both forms found and checked, random numbers a picture's."""

import multiprocessing
import os
import shutil
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzz_tools import Patch, Printed, refusal_of
from picture_tools import CLASSES, kit, make, save
from PIL import Image
from torch import Tensor

from darts_lib.data import imagenet_data as data
from darts_lib.data.imagenet_data import PictureFiles, Reader, find_pictures, read_batches
from darts_lib.data.labels import KIT, TRUTH

CPU = torch.device("cpu")
NAMES = [f"ILSVRC2012_val_{number:08}" for number in range(1, 7)]
"""The flat folder's six pictures, whose classes take turns: n01, n02, n03, n01, n02, n03."""


def lines(form: str, count: int = 6) -> str:
    """Return a line for each of the first pictures, its name and class in a form."""
    return "".join(form.format(name, f"n0{i % 3 + 1}") for i, name in enumerate(NAMES[:count]))


@pytest.fixture
def train(tmp_path: Path) -> PictureFiles:
    return find_pictures(make(tmp_path), 32)[0]


def test_class_folders(tmp_path: Path, capsys: Printed) -> None:
    train, test = find_pictures(make(tmp_path), 32)
    assert train.classes == test.classes == tuple(CLASSES)
    assert (len(train), len(test), train.size, train.channels) == (12, 6, (32, 32), 3)
    for path, label in zip(train.paths, train.labels.tolist(), strict=True):
        assert Path(path.decode()).name.startswith(train.classes[label])
    printed = capsys.readouterr().out
    assert "12 training and 6 test pictures in 3 classes" in printed
    assert "classes: n01, n02, n03; train from train; test from val" in printed
    few, test = find_pictures(tmp_path, 32, max_images=6)
    assert few.labels.bincount().tolist() == [2, 2, 2], "fewer pictures are of every class"
    assert len(test) == 6


CSV, TINY = "ImageId,PredictionString\n", lines("{}.JPEG\t{}\t0\t0\t9\t9\n")


@pytest.mark.parametrize(("file", "content"), [
    ("LOC_val_solution.csv", CSV + lines("{},{} 1 2 3 4 n09 1 2\n")),
    ("LOC_val_solution.csv", f"\ufeff{CSV}" + lines("{},{} 1 2 3 4\n")),
    ("val/val_labels.txt", lines("{}.JPEG {}\n")),
    ("val/val_annotations.txt", TINY),
    (f"{KIT}/{TRUTH}", ""),
    (f"../{TRUTH}", ""),
])  # fmt: skip
def test_flat_folders_get_labels(file: str, content: str, tmp_path: Path, capsys: Printed) -> None:
    root = make(tmp_path / "data", flat=True)
    source = (root / file).resolve()
    _ = source.write_text(content, "utf-8") if content else kit(source.parent)
    if content == TINY:  # Tiny ImageNet's pictures are a folder deeper
        (root / "val" / "images").mkdir()
        for name in NAMES:
            (root / f"val/{name}.JPEG").rename(root / f"val/images/{name}.JPEG")
    _, test = find_pictures(root, 32)
    # The class is known by what is in the picture: its channel is the bright one.
    images, labels = Reader(test, None)[torch.arange(len(test))]
    assert torch.equal(images.float().mean(dim=(2, 3)).argmax(dim=1), labels)
    assert sorted(labels.tolist()) == [0, 0, 1, 1, 2, 2]
    assert f"test from val, its labels from {source}" in capsys.readouterr().out


ALL, FIVE, IDS = lines("{}.JPEG {}\n"), lines("{}.JPEG {}\n", 5), "3\n1\n2\n3\n1\n"
OWN, META = "val_labels.txt", ["meta.mat", "cannot be read", "take it from the development kit"]


@pytest.mark.parametrize(("file", "content", "words"), [
    ("unknown.txt", ALL, [TRUTH, "LOC_val_solution.csv", "val/<class>"]),
    (OWN, FIVE, ["labels 5", "there are 6", "00000006 has no label"]),
    (OWN, f"{FIVE}{NAMES[5]}.JPEG n03\nmore.JPEG n01\n", ["labels 7", "more has no picture"]),
    (OWN, f"{FIVE}{NAMES[5]}.JPEG n07\n", ["differ in 1, n07", "train/ needs a folder"]),
    (OWN, FIVE.replace("n03", "n01") + f"{NAMES[5]} n01", ["differ in 1, n03"]),
    (OWN, f"{FIVE}n03\n", ["line 6", "'n03' is not 'file class'"]),
    (OWN, ALL.encode("utf-16-le"), ["val_labels.txt is not UTF-8 text", "save it as UTF-8"]),
    # Labels name no file and no folder.
    (OWN, ALL.replace(NAMES[0], f"../../{NAMES[0]}"), [f"{NAMES[0]} has no label"]),
    (OWN, ALL.replace("n01", "../n01"), ["differ in 2, ../n01, n01: train/ needs"]),
    (TRUTH, IDS, ["labels 5", "there are 6"]),
    (TRUTH, f"{IDS}77\n", ["line 6", "'77' is no ILSVRC2012_ID"]),
    (TRUTH, f"{IDS}4\n", ["differ in 1, n00"]),
    *(("meta.mat", length, META) for length in (None, 0, 200)),
])  # fmt: skip
def test_wrong_labels_are_named(file: str, content: Any, words: list[str], tmp_path: Path) -> None:
    path = make(tmp_path, flat=True) / file
    if file in (TRUTH, "meta.mat"):
        kit(tmp_path)
    if file != "meta.mat":
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    elif content is None:
        path.unlink()
    else:
        os.truncate(path, content)
    refusal_of(lambda: find_pictures(tmp_path), *words)


def test_a_test_picture_is_the_centre_of_the_smaller_side_at_256() -> None:
    ramp = np.tile(np.arange(512, dtype=np.uint8)[:, None, None] // 2, (1, 600, 3))
    tall = Image.fromarray(np.zeros((512, 600, 3), np.uint8) + ramp)
    by_hand = np.asarray(tall.resize((300, 256), Image.Resampling.BILINEAR))[16:240, 38:262]
    picture = data.transform(224, augmented=False)(tall).permute(1, 2, 0)
    assert np.array_equal(picture.numpy(), by_hand)


def test_batches_are_normalised_with_imagenets_figures(tmp_path: Path) -> None:
    _, test = find_pictures(make(tmp_path), 32)
    raw, labels = Reader(test, None)[torch.arange(6)]
    ((images, same),) = read_batches(test, [torch.arange(6)], 0, CPU)
    assert (raw.dtype, images.dtype) == (torch.uint8, torch.float32)
    mean, std = (torch.tensor(figures).double()[:, None, None] for figures in (data.MEAN, data.STD))
    by_hand = (raw.double() / 255 - mean) / std
    torch.testing.assert_close(images.double(), by_hand, rtol=1e-5, atol=1e-6)
    assert torch.equal(labels, same)


ORDER = [torch.tensor([3, 0, 7]), torch.tensor([1, 2, 5]), torch.tensor([4, 6])]


def read(files: PictureFiles, workers: int, seed: int | None, order: list[Tensor]) -> list[Tensor]:
    return [images for images, _ in read_batches(files, order, workers, CPU, seed)]


def test_workers_change_no_bit_and_draw_nothing_from_the_generator(train: PictureFiles) -> None:
    before = torch.get_rng_state()
    here, by_two = (read(train, workers, 9, ORDER) for workers in (0, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert [len(images) for images in here] == [3, 3, 2]
    assert torch.equal(torch.cat(here), torch.cat(by_two))


def test_a_pictures_randomness_is_of_its_seed_and_index_alone(train: PictureFiles) -> None:
    first = torch.cat(read(train, 0, 9, ORDER))
    torch.rand(3)
    again = torch.cat(read(train, 0, 9, [torch.cat(ORDER).flip(0)])).flip(0)
    assert torch.equal(first, again), "neither the batch nor the place in it counts"
    other = torch.cat(read(train, 0, 10, ORDER))
    assert all(not torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_the_same_picture_twice_is_augmented_in_two_ways(tmp_path: Path) -> None:
    files = PictureFiles.of([(save(tmp_path / "a.JPEG"), 0)] * 6, ("a",), 32)
    (images,) = read(files, 0, 9, [torch.arange(6)])
    assert len({image.numpy().tobytes() for image in images}) == 6


def test_a_bad_picture_is_named_and_no_worker_stays(train: PictureFiles, tmp_path: Path) -> None:
    reading = read_batches(train, ORDER, 2, CPU, 9)
    next(reading)
    assert len(multiprocessing.active_children()) == 2
    reading.close()
    assert not multiprocessing.active_children()
    file = tmp_path / "train" / "n02" / "n02_1.JPEG"
    file.write_bytes(file.read_bytes()[:400])
    for workers in (0, 2):
        order = [torch.arange(i, i + 4) for i in (0, 4, 8)]
        refusal_of(partial(read, train, workers, 9, order), str(file), "repair or remove it")
        assert not multiprocessing.active_children()


@pytest.mark.parametrize(("workers", "free", "ranks", "told"), [
    (8, 64, "1", "workers=8 needs 154 MB of shared memory, /dev/shm has 64: docker run --shm-size"),
    (2, 64, "2", "workers=2 needs 77 MB"),
    (8, 160, "1", ""),
    (3, 64, "1", ""),
    (0, 0, "1", ""),
])  # fmt: skip
def test_too_little_shared_memory_is_told_before_the_first_batch(
    workers: int, free: int, ranks: str, told: str, monkeypatch: Patch, tmp_path: Path
) -> None:
    """Of two batches a worker, 64 pictures of 224 pixels each: pytorch/pytorch#5040."""
    usage = shutil._ntuple_diskusage(0, 0, free * 10**6)
    monkeypatch.setattr(data, "SHARED", Path("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    check = partial(data.check_shared_memory, (224, 224), [10, *[64] * 40], workers)
    if told:
        refusal_of(check, told.replace("/dev/shm", "/"))
    else:
        check()


def test_a_batch_that_cannot_be_shared_is_told(train: PictureFiles, monkeypatch: Patch) -> None:
    def full(_: Tensor) -> None:
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    monkeypatch.setattr(Tensor, "share_memory_", full)
    refusal_of(partial(read, train, 2, 9, ORDER), "no shared memory is left", "docker run")


@pytest.mark.deep
@pytest.mark.parametrize("sign", ["SIGKILL", "SIGBUS", ""])
def test_a_worker_that_is_no_more_or_hangs_ends_the_reading_in_a_line(
    sign: str, train: PictureFiles, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(data, "LOOK", 1.0)
    monkeypatch.setattr(data, "PATIENCE", 2.0)
    if not sign:
        monkeypatch.setattr(Reader, "_picture", lambda *_: time.sleep(600))
    reading = read_batches(train, [torch.arange(12)] * 99, 2, CPU, 9)
    if sign:
        next(reading)
        os.kill(multiprocessing.active_children()[0].pid or 0, getattr(signal, sign))
    refusal_of(lambda: list(reading), "workers=2: one that reads pictures died or hangs", "again")
    assert not multiprocessing.active_children()


def test_workers_that_cannot_be_started_are_told(train: PictureFiles, monkeypatch: Patch) -> None:
    def fail(_: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(multiprocessing.Process, "start", fail)
    refusal_of(partial(read, train, 2, 9, ORDER), "workers=2", "temporarily unavailable")
