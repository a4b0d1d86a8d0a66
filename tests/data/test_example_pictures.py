"""The example pictures: a folder as ImageNet's, whole or not at all, the same each time."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fuzz_tools import Patch
from PIL import Image
from sklearn.datasets import load_sample_image

from darts_lib.data import example_pictures as module
from darts_lib.data.example_pictures import CROPS, PHOTOGRAPHS, SIDE, crops, example_pictures
from darts_lib.data.imagenet_data import find_pictures
from darts_lib.engine.refusals import SettingsError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return example_pictures(tmp_path_factory.mktemp("pictures"))


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_the_folder_is_read_as_imagenets_is(folder: Path) -> None:
    train, test = find_pictures(folder)
    assert train.classes == test.classes == ("flower", "temple")
    assert train.labels.bincount().tolist() == [100, 100]
    assert test.labels.bincount().tolist() == [30, 30]
    modes = []
    for path in folder.rglob("*.JPEG"):
        with Image.open(path) as picture:
            assert (picture.format, picture.size) == ("JPEG", (SIDE, SIDE))
            modes.append(picture.mode)
    assert (modes.count("L"), modes.count("RGB")) == (26, 234), "one in ten is grey"


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
    picture = np.asarray(Image.open(folder / "train" / "flower" / "flower_001.JPEG")).astype(int)
    assert np.abs(picture - crop).mean() < 5, "JPEG alone may change a pixel"


def test_two_at_once_write_it_once(folder: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    with ThreadPoolExecutor() as pool:
        assert {*pool.map(example_pictures, [tmp_path] * 2)} == {tmp_path / "example-pictures"}
    assert contents(tmp_path / "example-pictures") == contents(folder)
    monkeypatch.setattr(module, "_write", lambda folder: pytest.fail("written again"))
    example_pictures(tmp_path)


def test_a_writer_that_is_stopped_leaves_no_folder(tmp_path: Path, monkeypatch: Patch) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    with pytest.raises(SettingsError, match=r"example-pictures was not written .*DARTS_LIB_RUNS"):
        example_pictures(tmp_path / "taken")
    stale = tmp_path / ".example-pictures.part" / "train" / "flower"
    stale.mkdir(parents=True)  # as one that was killed leaves it
    (stale / "half.JPEG").write_bytes(b"half")
    pictures = iter([b"a picture"] * 149)

    def interrupted(_: object, file: Path, **__: object) -> None:
        try:
            file.write_bytes(next(pictures))
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(module.Image.Image, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        example_pictures(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".example-pictures.lock", "runs", "taken"}
    pictures = iter([b"a picture"] * 260)
    assert len(list(example_pictures(tmp_path).rglob("*.JPEG"))) == 260
    assert not (tmp_path / ".example-pictures.part").exists()
