"""What each kind of run knows of a person's own data, and what is done by the names of classes."""

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fuzz_tools import Printed, refusal_of
from kind_tools import KINDS, write_text
from picture_tools import make, plain, stored
from PIL import Image

from darts_lib.data.description import PictureData
from darts_lib.data.images import load_images
from darts_lib.engine.folder import read_json, write_json
from darts_lib.engine.opening import check_start, data_changes
from darts_lib.formats.weight_files import describe
from darts_lib.retrain import evaluate_run, retrain
from darts_lib.tools.checkpoints import main

Change = Callable[[Path], object]
THREE = ("n01", "n02", "n03")


def both(root: Path, change: Callable[[Path], object]) -> None:
    for split in ("train", "val"):
        change(root / split)


PICTURES: dict[str, tuple[Change, str]] = {
    "a class more": (
        lambda root: both(root, lambda part: shutil.copytree(part / "n01", part / "emu")),
        "4 classes now, 3 when the run was started ('emu' is new); 16 in train now, 12 then",
    ),
    "a class renamed": (
        lambda root: both(root, lambda part: (part / "n02").rename(part / "N02")),
        "3 classes now, 3 when the run was started ('N02' is new, 'n02' is gone)",
    ),
    "a picture less": (
        lambda root: (root / "train/n01/n01_0.JPEG").unlink(),
        "11 in train now, 12 then",
    ),
    "a file renamed": (
        lambda root: (root / "train/n01/n01_0.JPEG").rename(root / "train/n01/n01_00.JPEG"),
        "other contents or names of the files of train",
    ),
    "a picture of another class": (
        lambda root: shutil.copy(root / "train/n01/n01_0.JPEG", root / "train/n02/n02_0.JPEG"),
        "other contents or names of the files of train",
    ),
    "another test picture": (
        lambda root: plain(next((root / "val/n01").iterdir())),
        "other contents or names of the files of test",
    ),
    "the folder moved, other times and notes": (
        lambda root: (both(root, lambda part: next((part / "n01").iterdir()).touch()),
                      (root / "notes.txt").touch()),
        "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", PICTURES)
@pytest.mark.parametrize("name", ["search", "retraining", "ImageNet retraining"])
def test_what_has_become_of_pictures_is_known_before_they_are_loaded(
    name: str, change: str, tmp_path: Path
) -> None:
    root, moved = make(tmp_path / "a"), tmp_path / "b"
    settings = KINDS[name].settings(dataset="folder", data_root=str(root))
    before = settings.fingerprint()
    edit, told = PICTURES[change]
    edit(root.rename(moved))
    changes = data_changes(
        before, settings.model_copy(update={"data_root": str(moved)}).fingerprint()
    )
    if name == "search" and "test" in change:  # which it never reads
        told = ""
    assert ("; ".join(changes)[: len(told)] == told) if told else (changes == [])


@pytest.mark.parametrize("name", ["recurrent search", "recurrent retraining"])
def test_another_text_is_known_before_it_is_read(name: str, tmp_path: Path) -> None:
    settings = KINDS[name].settings(data_root=str(write_text(tmp_path)))
    before = settings.fingerprint()
    assert data_changes(before, settings.fingerprint()) == []
    assert KINDS[name].settings(dataset="topics").fingerprint() == {}, "it has a name"
    (tmp_path / "valid.txt").write_text("other words\n")
    assert data_changes(before, settings.fingerprint()) == [
        "other contents or names of the files of valid"
    ]
    (tmp_path / "valid.txt").unlink()
    refusal_of(settings.fingerprint, "valid.txt is not there", "data_root must name a folder")


def test_labels_are_numbered_by_name(capsys: Printed) -> None:
    data = PictureData(
        classes=("ant", "cat", "dog"), channels=1, size=(8, 8), mean=(0.5,), std=(0.1,)
    )
    labels = torch.tensor([0, 1, 1])
    for classes, numbers, told in (
        (("ant", "cat", "dog"), [0, 1, 1], "no pictures of 'dog'"),
        (("dog", "ant", "cat"), [2, 0, 0], "no pictures of 'cat'"),  # another order
        (("cat", "dog"), [1, 2, 2], "here has no pictures of 'ant': the others alone are tested"),
    ):
        assert data.numbers(classes, labels, "here").tolist() == numbers
        assert told in capsys.readouterr().out
    for classes, words in (
        (("ant", "cat", "Dog"), "does not know: 'Dog' ('dog' is the nearest); it knows 'ant', 'ca"),
        (("bee", "cat", "dog"), "here has classes that the network does not know: 'bee'"),
    ):
        refusal_of(lambda classes=classes: data.numbers(classes, labels, "here"), words)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the folder of a retraining on pictures of three classes, and that of the pictures."""
    root, path = (tmp_path_factory.mktemp(name) for name in ("pictures", "run"))
    given = {"dataset": "folder", "data_root": str(make(root)), "image_size": 9}
    return retrain(KINDS["retraining"].settings(path, **given, batch_size=4)).path, root  # type: ignore[arg-type]


def test_weights_know_their_data_and_are_tested_by_the_names(
    trained: tuple[Path, Path], tmp_path: Path, capsys: Printed
) -> None:
    run, root = trained
    data = PictureData.create(**describe(run / "weights.safetensors"))
    assert (data.classes, data.channels, data.size, data.dataset) == (THREE, 3, (9, 9), "folder")
    assert describe(run) == read_json(run / "config.json")["data"]
    for split in ("train", "val"):  # other pictures: grey, and without the first class
        for number in range(20):
            plain(tmp_path / split / "n02" / f"{number}.png", "L", (30, 30), 40 + number)
            plain(tmp_path / split / "n03" / f"{number}.png", "L", (30, 30), 90 + number)
    tested = load_images("folder", tmp_path, "test", like=data)
    assert (tested.classes, tested.size, tested.channels) == (THREE, (9, 9), 3)
    assert (tested.mean, tested.std, tested.labels.unique().tolist()) == (
        data.mean,
        data.std,
        [1, 2],
    )
    arguments = ["evaluate", str(run), "--data-root", str(tmp_path)]
    main(arguments)
    assert "no pictures of 'n01'" in capsys.readouterr().out
    both(tmp_path, lambda part: (part / "n03").rename(part / "N03"))
    refusal_of(lambda: main(arguments), "does not know: 'N03' ('n03' is the nearest)")
    settings = KINDS["retraining"].settings(data_root=str(tmp_path))
    refusal_of(lambda: evaluate_run(run, settings), "does not know: 'N03'")


def deep(root: Path, high: int) -> Path:
    """Write grey pictures of 16 bits, from 0 to `high`, of two classes in train, val and test."""
    levels = np.linspace(0, high, 144).reshape(12, 12).astype(np.uint16)
    for split, name in itertools.product(("train", "val", "test"), "ab"):
        for number in range(8):
            picture = Image.fromarray(np.roll(levels, number))
            stored(root / split / name / f"{number}.png", picture)
    return root


def test_pixels_are_scaled_as_in_training(tmp_path: Path) -> None:
    trained, darker = deep(tmp_path / "a", 4095), deep(tmp_path / "b", 1000)
    train = load_images("folder", trained, "train")
    like = PictureData.create(**PictureData.row(train))
    assert like.scale == {"low": 0, "high": 4095}
    assert int(load_images("folder", darker, "test").images.max()) > 200, "by its own range"
    tested = load_images("folder", darker, "test", like=like)
    assert int(tested.images.max()) == round(1000 / 4095 * 255)
    assert tested.scale == train.scale
    for scale in ({}, {"low": 5, "high": 5}, {"low": 0, "high": 1, "mid": 2}):
        row = {**PictureData.row(train), "scale": scale}
        refusal_of(lambda row=row: PictureData.create(**row), "scale has a low")


@pytest.mark.parametrize(("name", "given", "splits"), [
    ("search", {}, {"train", "valid"}),
    ("retraining", {}, {"train", "test"}),
    ("retraining", {"holdout": 0.5}, {"train", "valid"}),
    ("ImageNet retraining", {}, {"train", "test"}),
])  # fmt: skip
def test_only_the_splits_that_a_run_reads_are_compared(
    name: str, given: dict[str, float], splits: set[str], tmp_path: Path
) -> None:
    data = {"dataset": "folder", "data_root": str(deep(tmp_path, 9))}
    assert set(KINDS[name].settings(**data, **given).fingerprint()["digest"]) == splits


def test_a_split_that_is_gone_is_noticed_and_no_run_is_tested_on_what_it_learnt(
    tmp_path: Path,
) -> None:
    """Without val/ the share that is held out would be one of train/, which was learnt from."""
    root = make(tmp_path / "pictures", count=8)
    shutil.copytree(root / "val", root / "test")
    given = {"dataset": "folder", "data_root": str(root), "holdout": 0.25, "max_steps": 1}
    config = KINDS["retraining"].settings(**given, batch_size=4, run_dir=str(tmp_path / "run"))
    evaluate_run(retrain(config).path, config)
    shutil.rmtree(root / "val")
    for again in (lambda: retrain(config), lambda: evaluate_run(tmp_path / "run", config)):
        refusal_of(again, "none in valid now, 6 then")


def test_a_chapter_refuses_other_data_at_its_head(tmp_path: Path) -> None:
    root, run = make(tmp_path / "data"), tmp_path / "run"
    given = {"dataset": "folder", "data_root": str(root), "epochs": 1, "batch_size": 4}
    settings = KINDS["search"].settings(run, **given)
    check_start(settings)
    KINDS["search"].go(settings)
    check_start(settings)
    (run / "checkpoint.pt").unlink()
    check_start(settings)
    shutil.copytree(root / "train/n01", root / "train/emu")
    shutil.copytree(root / "val/n01", root / "val/emu")
    refusal_of(lambda: check_start(settings), "'emu' is new", "resume=False")
    config = read_json(run / "config.json")
    write_json(run / "config.json", {**config, "data": {"classes": 3, "counts": []}})
    refusal_of(lambda: check_start(settings), "the data of the run", "'emu' is new")
