"""The digits' split, and what happens to a tiny CIFAR-10 when its files are harmed."""

import gzip
import hashlib
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat  # type: ignore[import-untyped]
from sklearn.datasets import load_digits
from torchvision import datasets
from torchvision.datasets import utils

from darts_lib.data.data_sets import archives, read_digits, read_downloaded
from darts_lib.engine.refusals import SettingsError

BATCH = 20
"""Pictures in each file of the tiny CIFAR-10."""


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Refuse every download, and list the addresses that were asked for."""
    asked: list[str] = []

    def refuse(url: str, *_: object) -> None:
        asked.append(url)
        raise utils.urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(utils, "download_url", refuse)
    return asked


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a data folder with a complete tiny CIFAR-10 and its archive; torchvision knows it."""
    root, cifar = tmp_path / "data", datasets.CIFAR10
    folder = root / cifar.base_folder
    folder.mkdir(parents=True)
    rng = np.random.RandomState(0)
    names = [name for name, _ in [*cifar.train_list, *cifar.test_list]]
    for name in names:
        pixels = rng.randint(256, size=(BATCH, 3072)).astype(np.uint8)
        labels = [int(label) for label in rng.randint(10, size=BATCH)]
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": labels}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    with tarfile.open(root / cifar.filename, "w:gz") as archive:
        archive.add(folder, cifar.base_folder)
    sums = [[name, md5(folder / name)] for name in names]
    monkeypatch.setattr(cifar, "train_list", sums[:5])
    monkeypatch.setattr(cifar, "test_list", sums[5:])
    monkeypatch.setattr(cifar, "meta", {**cifar.meta, "md5": md5(folder / "batches.meta")})
    monkeypatch.setattr(cifar, "tgz_md5", md5(root / cifar.filename))
    return root


# Digits -----------------------------------------------------------------------------------------


def test_the_digits_are_split_in_proportion_and_none_is_lost() -> None:
    (train, train_labels), (test, test_labels), classes = read_digits()
    assert (len(train), len(test), len(classes)) == (1437, 360, 10)
    original = load_digits()
    known = {round(level * 255 / 16) for level in range(17)}
    assert set(train.flatten().tolist()) == known
    together = torch.cat([train, test]).flatten(1).numpy()
    expected = np.rint(original.data * 255 / 16).astype(np.uint8)
    assert sorted(map(bytes, together)) == sorted(map(bytes, expected))
    all_counts = np.bincount(original.target)
    test_counts = test_labels.bincount().numpy()
    assert (np.abs(test_counts - all_counts * 360 / 1797) < 1).all()
    assert (train_labels.bincount().numpy() == all_counts - test_counts).all()


def test_the_digits_carry_their_own_labels_in_a_fixed_order() -> None:
    original = load_digits()
    label_of = {
        np.rint(data * 255 / 16).astype(np.uint8).tobytes(): target
        for data, target in zip(original.data, original.target, strict=True)
    }
    (train, labels), (_, test_labels), _ = read_digits()
    assert [label_of[image.numpy().tobytes()] for image in train] == labels.tolist()
    # The split itself: whoever changes it changes every figure measured on the digits.
    assert labels[:10].tolist() == [3, 9, 1, 3, 1, 9, 4, 4, 2, 8]
    assert test_labels[:10].tolist() == [7, 6, 3, 7, 7, 3, 2, 8, 9, 3]


# Complete data ----------------------------------------------------------------------------------


def test_complete_data_are_read_in_file_order_without_network_or_writing(
    root: Path, no_network: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(root.rglob("*"))
    (train, labels), (test, _), classes = read_downloaded("cifar10", root)
    assert train.shape == (5 * BATCH, 3, 32, 32)
    assert test.shape == (BATCH, 3, 32, 32)
    assert classes == tuple("abcdefghij")
    for number in range(5):
        entry = pickle.loads((root / f"cifar-10-batches-py/data_batch_{number + 1}").read_bytes())
        here = slice(number * BATCH, (number + 1) * BATCH)
        assert (train[here].flatten(1).numpy() == entry["data"]).all()
        assert labels[here].tolist() == entry["labels"]
    assert sorted(root.rglob("*")) == before
    assert no_network == []
    assert capsys.readouterr().out == ""


def test_svhn_and_fashion_mnist_come_as_channels_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.RandomState(0).randint(256, size=(32, 32, 3, 4)).astype(np.uint8)
    for split in ("train", "test"):
        path = tmp_path / f"{split}_32x32.mat"
        savemat(path, {"X": pixels, "y": np.array([[10], [1], [2], [9]])})
        known = ["http://nowhere", path.name, md5(path)]
        monkeypatch.setitem(datasets.SVHN.split_list, split, known)
    (images, labels), _, classes = read_downloaded("svhn", tmp_path)
    assert (images.numpy() == pixels.transpose(3, 2, 0, 1)).all()
    assert labels.tolist() == [0, 1, 2, 9]
    assert classes[9] == "9"

    monkeypatch.setattr("darts_lib.data.data_sets.prepare", lambda *_: None)
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for archive in archives("fashion_mnist"):
        (member,) = archive.members
        sides = (2, 28, 28) if "images" in member.path else (2,)
        header = bytes([0, 0, 8, len(sides)]) + b"".join(s.to_bytes(4, "big") for s in sides)
        (tmp_path / member.path).write_bytes(header + bytes([1] * int(np.prod(sides))))
    (images, labels), _, classes = read_downloaded("fashion_mnist", tmp_path)
    assert images.shape == (2, 1, 28, 28)
    assert labels.tolist() == [1, 1]
    assert classes[9] == "Ankle boot"


# Harmed data ------------------------------------------------------------------------------------


def refusal(root: Path, dataset: str = "cifar10") -> str:
    """Return the message with which the data set is refused: one line with the ways out."""
    with pytest.raises(SettingsError) as caught:
        read_downloaded(dataset, root)
    message = str(caught.value)
    assert "\n" not in message
    for part in (dataset, str(root), "another folder as data_root", "the data set 'digits'"):
        assert part in message
    return message


def harm(root: Path, kind: str) -> str:
    """Harm the unpacked files in one of the ways that happen, and name the file at fault."""
    folder = root / "cifar-10-batches-py"
    path = folder / {"flipped byte": "test_batch", "half": "data_batch_2"}.get(kind, "data_batch_3")
    content = bytearray(path.read_bytes())
    match kind:
        case "missing":
            path.unlink()
        case "flipped byte":
            content[1000] ^= 1
            path.write_bytes(content)
        case "half":
            path.write_bytes(content[: len(content) // 2])
            for name in ("data_batch_3", "data_batch_4", "test_batch", "batches.meta"):
                (folder / name).unlink()
        case "no names":
            path = folder / "batches.meta"
            path.unlink()
    return path.name


KINDS = ["missing", "flipped byte", "half", "no names"]


@pytest.mark.parametrize("kind", KINDS)
def test_harmed_files_are_unpacked_again_from_a_good_archive(
    root: Path, kind: str, no_network: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (expected, _), _, _ = read_downloaded("cifar10", root)
    harm(root, kind)
    (images, _), _, _ = read_downloaded("cifar10", root)
    assert torch.equal(images, expected)
    assert "Unpacking" in capsys.readouterr().out
    assert no_network == []


@pytest.mark.parametrize("kind", KINDS)
def test_harmed_files_without_an_archive_are_named_and_left_alone(
    root: Path, kind: str, no_network: list[str]
) -> None:
    (root / "cifar-10-python.tar.gz").unlink()
    name = harm(root, kind)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    message = refusal(root)
    path = root / "cifar-10-batches-py" / name
    assert f"cifar-10-batches-py/{name} " in message
    assert (f"{path.stat().st_size:,} bytes" if path.exists() else "is missing") in message
    assert "cifar-10-python.tar.gz" in message
    assert all(path.read_bytes() == content for path, content in before.items())
    assert no_network == []


def test_a_web_page_saved_as_the_archive_is_moved_aside(root: Path, no_network: list[str]) -> None:
    page = b"<!DOCTYPE html><html>" + b"x" * 10_000
    for path in (root / "cifar-10-batches-py").iterdir():
        path.unlink()
    (root / "cifar-10-batches-py").rmdir()
    (root / "cifar-10-python.tar.gz").write_bytes(page)
    message = refusal(root)
    assert "cifar-10-python.tar.gz fails its check (10,021 bytes" in message
    assert "<!DOCTYPE html>" in message
    assert "run again to download it" in message
    assert not (root / "cifar-10-python.tar.gz").exists()
    assert (root / "cifar-10-python.tar.gz.bad").read_bytes() == page
    assert no_network == []
    refusal(root)
    assert len(no_network) == 1, "the second run must try to download it"


def test_a_cut_off_archive_beside_complete_files_does_no_harm(
    root: Path, no_network: list[str]
) -> None:
    (root / "cifar-10-python.tar.gz").write_bytes(b"half")
    read_downloaded("cifar10", root)
    assert (root / "cifar-10-python.tar.gz").exists()


@pytest.mark.parametrize(
    ("dataset", "file", "size"),
    [
        ("cifar10", "cifar-10-python.tar.gz", 170),
        ("cifar100", "cifar-100-python.tar.gz", 170),
        ("fashion_mnist", "train-images-idx3-ubyte.gz", 26),
        ("svhn", "train_32x32.mat", 182),
    ],
)
def test_without_network_the_message_names_the_file_to_put_there(
    dataset: str,
    file: str,
    size: int,
    tmp_path: Path,
    no_network: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    message = refusal(tmp_path / "new" / "data", dataset)
    assert f"put {file} into {tmp_path / 'new' / 'data'}" in message
    assert "Name or service not known" in message
    printed = capsys.readouterr().out
    assert f"Downloading {dataset}: {file}, about {size} MB, from {no_network[0]}" in printed


def test_fashion_mnist_that_was_cut_off_is_found_by_its_size(
    tmp_path: Path, no_network: list[str]
) -> None:
    first = archives("fashion_mnist")[0]
    path = tmp_path / first.members[0].path
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(1000))
    message = refusal(tmp_path, "fashion_mnist")
    assert "train-images-idx3-ubyte fails its check (1,000 bytes" in message
    assert no_network == []


def test_fashion_mnist_is_unpacked_from_archives_put_there_by_hand(
    tmp_path: Path, no_network: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    shapes = [(60_000, 28, 28), (60_000,), (10_000, 28, 28), (10_000,)]
    resources = []
    for (name, _), shape in zip(datasets.FashionMNIST.resources, shapes, strict=True):
        header = bytes([0, 0, 8, len(shape)]) + b"".join(s.to_bytes(4, "big") for s in shape)
        (raw / name).write_bytes(gzip.compress(header + bytes(int(np.prod(shape))), 1))
        resources.append((name, md5(raw / name)))
    monkeypatch.setattr(datasets.FashionMNIST, "resources", resources)
    (train, _), (test, _), _ = read_downloaded("fashion_mnist", tmp_path)
    assert train.shape == (60_000, 1, 28, 28)
    assert test.shape == (10_000, 1, 28, 28)
    assert no_network == []
