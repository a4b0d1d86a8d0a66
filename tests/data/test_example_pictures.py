"""The example pictures: a folder as ImageNet's, whole or not at all, the same each time."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from darts_lib.data.imagenet_data import find_pictures, read_batches
from darts_lib.data import example_pictures as module
from darts_lib.data.example_pictures import (
    CROPS,
    GREY,
    PHOTOGRAPHS,
    SIDE,
    crops,
    example_pictures,
)
from darts_lib.engine.refusals import SettingsError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return example_pictures(tmp_path_factory.mktemp("pictures"))


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_the_folder_is_read_as_imagenets_is(folder: Path) -> None:
    train, test = find_pictures(folder, size=64)
    assert (len(train), len(test)) == (200, 60)
    assert train.classes == test.classes == ("flower", "temple")
    assert train.labels.bincount().tolist() == [100, 100]
    assert test.labels.bincount().tolist() == [30, 30]
    images, labels = next(read_batches(train, [torch.arange(8)], 0, torch.device("cpu"), 0))
    assert images.shape == (8, 3, 64, 64)
    assert sorted(set(labels.tolist())) == [0, 1]


def test_pictures_are_crops_and_one_in_ten_is_grey(folder: Path) -> None:
    modes = []
    for path in sorted(folder.rglob("*.JPEG")):
        with Image.open(path) as picture:
            assert (picture.format, picture.size) == ("JPEG", (SIDE, SIDE))
            modes.append(picture.mode)
    assert len(modes) == 2 * sum(CROPS.values())
    assert modes.count("L") == len(modes) // GREY
    assert set(modes) == {"L", "RGB"}


@pytest.mark.parametrize("name", PHOTOGRAPHS.values())
def test_no_column_is_in_both_splits(name: str) -> None:
    """The photograph is replaced by the column of each of its pixels."""
    height, width = load_sample_image(name).shape[:2]
    columns = np.broadcast_to(np.arange(width), (height, width))
    seen = {split: np.unique([crop[0] for crop in crops(columns, split, 5000)]) for split in CROPS}  # type: ignore[arg-type]
    assert seen["train"].max() < seen["val"].min()
    assert (seen["train"].min(), seen["val"].max()) == (0, width - 1), "no edge is left out"


def test_a_crop_is_what_stands_in_the_photograph(folder: Path) -> None:
    crop = crops(load_sample_image("flower.jpg"), "train", CROPS["train"])[1]
    with Image.open(folder / "train" / "flower" / "flower_001.JPEG") as picture:
        difference = np.abs(np.asarray(picture).astype(int) - crop).mean()
    assert difference < 5, "JPEG alone may change a pixel"


def test_the_pictures_are_the_same_each_time(folder: Path, tmp_path: Path) -> None:
    assert contents(example_pictures(tmp_path)) == contents(folder)


def test_a_second_call_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = example_pictures(tmp_path)
    monkeypatch.setattr(module, "_write", lambda folder: pytest.fail("written again"))
    assert example_pictures(tmp_path) == first


def test_two_at_once_write_it_once(tmp_path: Path) -> None:
    found: list[Path] = []
    writers = [
        threading.Thread(target=lambda: found.append(example_pictures(tmp_path))) for _ in range(2)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert found == [tmp_path / "example-pictures"] * 2
    assert len(list(found[0].rglob("*.JPEG"))) == 260


def test_a_writer_that_is_stopped_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def interrupted(crop: object, grey: bool) -> bytes:
        written.append(crop)
        if len(written) == 150:
            raise KeyboardInterrupt
        return b"a picture"

    with monkeypatch.context() as patched:
        patched.setattr(module, "_jpeg", interrupted)
        with pytest.raises(KeyboardInterrupt):
            example_pictures(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".example-pictures.lock", "runs"}
    assert len(list(example_pictures(tmp_path).rglob("*.JPEG"))) == 260


def test_what_a_killed_writer_left_is_not_taken_over(tmp_path: Path) -> None:
    stale = tmp_path / ".example-pictures.part" / "train" / "flower"
    stale.mkdir(parents=True)
    (stale / "half.JPEG").write_bytes(b"half")
    assert len(list(example_pictures(tmp_path).rglob("*.JPEG"))) == 260
    assert not (tmp_path / ".example-pictures.part").exists()


def test_where_nothing_can_be_written_the_way_out_is_told(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    with pytest.raises(SettingsError, match=r"example-pictures was not written .*DARTS_LIB_RUNS"):
        example_pictures(tmp_path / "taken")
