"""What a folder of pictures holds: splits by any usual name, what is left out, what is told."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzz_tools import Patch, Printed, refusal_of
from picture_tools import lay

from darts_lib.data.images import load_splits
from darts_lib.data.listing import listed
from darts_lib.retrain import RetrainConfig, judging_images
from darts_lib.search import Search, SearchConfig


def files(root: Path, layout: str) -> Path:
    """Write `path=count`, a folder of so many files called pictures, and single files."""
    for path, equals, count in (item.partition("=") for item in layout.split()):
        (root / path if equals else (root / path).parent).mkdir(parents=True, exist_ok=True)
        for place in (root / path / f"{i}.jpg" for i in range(int(count or 0))):
            place.write_text(f"{place}")
        if not equals:
            (root / path).write_text(path)
    return root


def halves(train: str, test: str, inside: str = "") -> str:
    return f"{train}/{inside}a=3 {train}/{inside}b=3 {test}/{inside}a=1 {test}/{inside}b=1"


THREE = halves("train", "test") + " val/a=2 val/b=2"


@pytest.mark.parametrize(("layout", "counts", "sources"), [
    (halves("Training", "Testing"), (6, 0, 2), "train from Training; test from Testing"),
    (halves("TRAIN", "Validation"), (6, 0, 2), "train from TRAIN; test from Validation"),
    (halves("train_images", "dev-set"), (6, 0, 2), "train from train_images; test from dev-set"),
    (halves("train2017", "TestData"), (6, 0, 2), "train from train2017; test from TestData"),
    (halves("train", "valid", "images/"), (6, 0, 2), "train from train; test from valid"),
    (THREE, (6, 4, 2), "train from train; test from test; valid from val"),
    ("train/a=5 train/b=5", (8, 0, 2), "train from train; test from one picture in 5"),
    ("a=5 b=5", (8, 0, 2), "test from one picture in 5 of each class"),
    ("a/images=5 b/images=5 a/a.txt", (8, 0, 2), "not read: 1 .txt"),
    ("a=5 b=4 b/x.HEIC b/x.GIF a/y.heic a/z", (8, 0, 2), "not read: 2 .heic, 1 without ending"),
    (f"{halves('train', 'val')} test=4", (6, 0, 2), "test from val"),
    (f"{halves('train', 'val')} test/images=4", (6, 0, 2), "{0}/test is not read: it has neither"),
    ("train/a=5 train/b=5 test=2", (8, 0, 2), "{0}/test is not read: it has neither a class"),
    (f"{THREE} docs=1", (6, 4, 2), "not read in {0}: the folders docs"),
    ("a=5 b=5 =2", (8, 0, 2), "not read, beside the classes of {0}: 0.jpg, 1.jpg"),
    ("a=5 b=4 b/c=1", (8, 0, 2), "b in {0} have folders in them, whose pictures are read too"),
    ("a=5 b=3 b/deep/er=2", (8, 0, 2), "b in {0} have folders in them"),
    ("a=5 b=5 a/.x=3 a/@eaDir/1.jpg=2 b/c/.d=1 b/__MACOSX=2 .c=1 @d=1 a/Thumbs.db a/.1.jpg",
     (8, 0, 2), "each class\n"),
])  # fmt: skip
def test_a_folder_is_taken_as_people_lay_it(
    layout: str, counts: Any, sources: str, tmp_path: Path, capsys: Printed
) -> None:
    listing = listed(files(tmp_path / "pictures", layout))
    assert (len(listing.train), len(listing.valid), len(listing.test)) == counts
    assert listing.classes == ("a", "b")
    listing.tell("as they are.")
    printed = capsys.readouterr().out
    assert "classes: a, b; " in printed
    assert sources.format(listing.root) in printed
    assert ("warning" in printed) == ("{0}" in sources or "test=4" in layout)


@pytest.mark.parametrize(("layout", "words"), [
    ("x/cat=2 x/dog=2", "one class, x; x has the folders cat, dog: is data_root {0}/x meant?"),
    ("x/y/train/a=2 x/y/test/a=2", "y has the folders test, train: is data_root {0}/x/y meant?"),
    ("a=3", "{0} has one class, a; expected"),
    ("1.png", "{0} has no class folders; expected: one folder a class, FOLDER/<class>/*.jpg"),
    ("a=3 b=1", "class 'b' in {0} has one picture"),
    ("a=3 b=0", "{0}/b has no pictures: add some (.jpg, .jpeg"),
    ("train/a=3 test/a=3", "{0}/train has one class, a; expected"),
    ("train=3 Test=3", "{0} has Test, train, but no folder train that has a folder a class"),
    ("test/a=3 test/b=3 val/a=1", "{0} has test, val, but no folder train"),
    ("a=3 b=3 test/a=1 test/b=1", "{0} has a, b, test, but no folder train"),
    ("s/cat=2 s/dog=2 t/cat=2", "{0}, s, t, has folders in it (cat, dog): is data_root {0}/s"),
    ("a/images=2 a/masks=2 b/images=2", "has folders in it (images, masks)"),
    ("images=2 masks=2", "{0} has the folders images, masks: images is no class"),
    (f"{THREE} training/a=2", "{0} has train, training, which all mean train"),
    ("train/A=3 train/B=3 test/a=1 test/b=1", "train and {0}/test differ in A, B, a, b"),
    ("train/a=3 train/b=3 val=2", "{0}/val has neither the class folders"),
    ("train/a=3 train/b=3 val=0", "{0}/val has no pictures"),
    ("a=3 b/x.heic", "class folder {0}/b has no pictures but 1 .heic: add some"),
])  # fmt: skip
def test_what_was_probably_meant_is_said(layout: str, words: str, tmp_path: Path) -> None:
    root = files(tmp_path / "pictures", layout)
    refusal_of(lambda: listed(root), words.format(root))


def test_links_are_followed_but_not_round_and_what_leads_nowhere_is_named(tmp_path: Path) -> None:
    root = files(tmp_path / "pictures", "store/x=3 a=3 b=3 b/deep=1")
    (root / "store").rename(tmp_path / "store")
    (root / "c").symlink_to(tmp_path / "store")
    for place, target in (("a/up", ".."), ("a/top", "/"), ("b/deep/b", ".."), ("loop", ".")):
        (root / place).symlink_to(target)
    (root / "b/lost.jpg").symlink_to("nowhere")
    (root / "a/link.PNG").symlink_to("0.jpg")
    listing = listed(root)
    assert listing.classes == ("a", "b", "c")
    assert len(listing.train + listing.test) == 11
    (note,) = (note for note in listing.notes if "lead nowhere" in note)
    assert f"{root}/a/top, {root}/a/up, {root}/b/deep/b and 2 more" in note


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    assert listed(files(tmp_path / "x", "a=3 train=3")).classes == ("a", "train")


def test_a_folder_that_may_not_be_entered_is_named(tmp_path: Path, monkeypatch: Patch) -> None:
    root, scan = files(tmp_path, "a=3 b=3"), os.scandir

    def refuse(folder: Path) -> Any:
        if folder == root / "b":
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    refusal_of(lambda: listed(root), f"{root}/b cannot be read (Permission denied): allow it")
    refusal_of(lambda: listed(root / "a/0.jpg"), "a/0.jpg is a file: unpack it")


def test_the_same_picture_in_two_splits_or_classes_is_told(tmp_path: Path) -> None:
    root = files(tmp_path, THREE)
    assert listed(root).copies() == []
    equal = {
        "train and test": ("train/a/0", "test/a/9"),
        "test and valid": ("test/b/0", "val/b/9"),
        "two classes": ("train/a/1", "train/b/9"),
    }
    for source, copy in equal.values():
        (root / f"{copy}.jpg").write_bytes((root / f"{source}.jpg").read_bytes())
    (root / "train/a/8.jpg").write_bytes((root / "train/a/2.jpg").read_bytes()[:-1] + b"x")
    for line, (where, (source, copy)) in zip(
        listed(root).copies(), sorted(equal.items()), strict=True
    ):
        pair = f"such as {root}/{source}.jpg and {root}/{copy}.jpg;"
        assert line.startswith(f"the same file in {where}: 1 picture, {pair}")


def test_a_validation_split_teaches_the_alphas_and_judges_cells(tmp_path: Path) -> None:
    layout = "train/a=9 train/b=9 val/a=3 val/b=4 test/a=2 test/b=2"
    given: Any = {"dataset": "folder", "data_root": str(lay(tmp_path, layout)), "batch_size": 4}
    splits = load_splits("folder", tmp_path)
    assert [len(images) for images in splits.values()] == [18, 4, 7]
    search = Search(SearchConfig.create(scale="laptop", channels=2, **given))
    for part, split in ((search.train, splits["train"]), (search.valid, splits["valid"])):
        assert torch.equal(part.images, split.images)
    for holdout, count in ((0.0, 4), (0.2, 7)):
        config = RetrainConfig.create(scale="laptop", genotype="DARTS_V2", holdout=holdout, **given)
        assert len(judging_images(config)) == count
