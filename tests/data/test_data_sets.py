"""The digits' split, and what happens to a tiny CIFAR-10 when its files are harmed."""

import gzip
import pickle
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzz_tools import Patch, Printed, refusal_of
from local_server import md5
from scipy.io import savemat
from sklearn.datasets import load_digits
from torchvision import datasets
from torchvision.datasets import utils

from darts_lib.data.data_sets import archives, read_digits, read_downloaded

BATCH = 20  # pictures in each file of the tiny CIFAR-10
CIFAR = "cifar-10-batches-py"


@pytest.fixture
def asked(monkeypatch: Patch) -> list[str]:
    """Refuse every download, and list the addresses that were asked for."""
    addresses: list[str] = []

    def refuse(url: str, *_: object) -> None:
        addresses.append(url)
        raise utils.urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(utils, "download_url", refuse)
    return addresses


@pytest.fixture
def root(tmp_path: Path, monkeypatch: Patch) -> Path:
    """Return a data folder with a complete tiny CIFAR-10 and its archive; torchvision knows it."""
    root, cifar = tmp_path / "data", datasets.CIFAR10
    (root / CIFAR).mkdir(parents=True)
    files: dict[str, object] = {}
    rng = np.random.RandomState(0)
    for name, _ in [*cifar.train_list, *cifar.test_list]:
        pixels = rng.randint(256, size=(BATCH, 3072)).astype(np.uint8)
        files[name] = {"data": pixels, "labels": rng.randint(10, size=BATCH).tolist()}
    files["batches.meta"] = {"label_names": list("abcdefghij")}
    for name, content in files.items():
        (root / CIFAR / name).write_bytes(pickle.dumps(content))
    with tarfile.open(root / cifar.filename, "w:gz") as archive:
        archive.add(root / CIFAR, CIFAR)
    sums = [[name, md5(pickle.dumps(content))] for name, content in files.items()]
    monkeypatch.setattr(cifar, "train_list", sums[:5])
    monkeypatch.setattr(cifar, "test_list", sums[5:6])
    monkeypatch.setattr(cifar, "meta", {**cifar.meta, "md5": sums[6][1]})
    monkeypatch.setattr(cifar, "tgz_md5", md5((root / cifar.filename).read_bytes()))
    return root


def test_the_digits_are_split_in_proportion_and_none_is_lost() -> None:
    splits, classes = read_digits()
    (train, train_labels), (test, test_labels) = splits.values()
    assert (len(train), len(test), classes) == (1437, 360, tuple("0123456789"))
    original = load_digits()
    pixels = map(bytes, np.rint(original.data * 255 / 16).astype(np.uint8))
    together = map(bytes, torch.cat([train, test]).flatten(1).numpy())
    labels = torch.cat([train_labels, test_labels]).tolist()
    expected = sorted(zip(pixels, original.target.tolist(), strict=True))
    assert sorted(zip(together, labels, strict=True)) == expected
    shares = np.bincount(original.target) * 360 / 1797
    assert (np.abs(test_labels.bincount().numpy() - shares) < 1).all()
    # The split itself: whoever changes it changes every figure measured on the digits.
    assert train_labels[:10].tolist() == [3, 9, 1, 3, 1, 9, 4, 4, 2, 8]
    assert test_labels[:10].tolist() == [7, 6, 3, 7, 7, 3, 2, 8, 9, 3]


def test_complete_data_come_in_file_order(root: Path, asked: list[str], capsys: Printed) -> None:
    (root / "cifar-10-python.tar.gz").write_bytes(b"half")  # does no harm beside complete files
    before = sorted(root.rglob("*"))
    splits, classes = read_downloaded("cifar10", root)
    (train, labels), (test, _) = splits.values()
    assert (train.shape, test.shape) == ((5 * BATCH, 3, 32, 32), (BATCH, 3, 32, 32))
    assert classes == tuple("abcdefghij")
    files = [pickle.loads((root / CIFAR / f"data_batch_{i}").read_bytes()) for i in range(1, 6)]
    assert (train.flatten(1).numpy() == np.concatenate([file["data"] for file in files])).all()
    assert labels.tolist() == sum((file["labels"] for file in files), [])
    assert sorted(root.rglob("*")) == before
    assert (asked, capsys.readouterr().out) == ([], "")


def test_svhn_comes_as_channels_first(tmp_path: Path, monkeypatch: Patch) -> None:
    pixels = np.random.RandomState(0).randint(256, size=(32, 32, 3, 4)).astype(np.uint8)
    for split in ("train", "test"):
        path = tmp_path / f"{split}_32x32.mat"
        savemat(path, {"X": pixels, "y": np.array([[10], [1], [2], [9]])})
        known = ["http://nowhere", path.name, md5(path.read_bytes())]
        monkeypatch.setitem(datasets.SVHN.split_list, split, known)
    splits, classes = read_downloaded("svhn", tmp_path)
    images, labels = splits["train"]
    assert (images.numpy() == pixels.transpose(3, 2, 0, 1)).all()
    assert (labels.tolist(), classes) == ([0, 1, 2, 9], tuple("0123456789"))


def test_fashion_mnist_is_unpacked(tmp_path: Path, asked: list[str], monkeypatch: Patch) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    shapes = [(60_000, 28, 28), (60_000,), (10_000, 28, 28), (10_000,)]
    resources = []
    for (name, _), shape in zip(datasets.FashionMNIST.resources, shapes, strict=True):
        header = bytes([0, 0, 8, len(shape)]) + b"".join(s.to_bytes(4, "big") for s in shape)
        content = header + bytes([len(shape)]) * int(np.prod(shape))
        (raw / name).write_bytes(packed := gzip.compress(content, 1))
        resources.append((name, md5(packed)))
    monkeypatch.setattr(datasets.FashionMNIST, "resources", resources)
    splits, classes = read_downloaded("fashion_mnist", tmp_path)
    (train, labels), (test, _) = splits.values()
    assert (train.shape, test.shape) == ((60_000, 1, 28, 28), (10_000, 1, 28, 28))
    assert (int(train[7].min()), int(train.max()), labels[:2].tolist()) == (3, 3, [1, 1])
    assert (classes[9], asked) == ("Ankle boot", [])


def refused(root: Path, dataset: str, *words: str) -> None:
    """Expect a data set to be refused in one line with the ways out."""
    ways_out = (dataset, str(root), "another folder as data_root", "set 'digits'")
    refusal_of(lambda: read_downloaded(dataset, root), *ways_out, *words)


@pytest.mark.parametrize(("name", "change"), [
    ("test_batch", lambda content: content[:1000] + bytes([content[1000] ^ 1]) + content[1001:]),
    ("data_batch_2", lambda content: content[: len(content) // 2]),
    ("batches.meta", None),
])  # fmt: skip
def test_harmed_files_are_unpacked_again(
    name: str, change: Any, root: Path, asked: list[str], capsys: Printed
) -> None:
    expected = read_downloaded("cifar10", root)[0]["train"][0]
    path, archive = root / CIFAR / name, root / "cifar-10-python.tar.gz"
    path.write_bytes(change(path.read_bytes())) if change else path.unlink()
    away = archive.rename(root / "away")
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    size = f"fails its check ({path.stat().st_size:,} bytes" if change else "is missing"
    refused(root, "cifar10", f"{CIFAR}/{name} {size}", archive.name)
    assert all(path.read_bytes() == content for path, content in before.items())
    away.rename(archive)
    assert torch.equal(read_downloaded("cifar10", root)[0]["train"][0], expected)
    assert "Unpacking" in capsys.readouterr().out
    assert asked == []


def test_without_network_files_are_named(tmp_path: Path, asked: list[str], capsys: Printed) -> None:
    for dataset, file, size in (
        ("cifar10", "cifar-10-python.tar.gz", 170),
        ("cifar100", "cifar-100-python.tar.gz", 170),
        ("fashion_mnist", "train-images-idx3-ubyte.gz", 26),
        ("svhn", "train_32x32.mat", 182),
    ):
        root = tmp_path / dataset / "data"
        refused(root, dataset, f"put {file} into {root}", "Name or service not known")
        told = f"Downloading {dataset}: {file}, about {size} MB, from {asked.pop(0)}"
        assert told in capsys.readouterr().out
    path = tmp_path / archives("fashion_mnist")[0].members[0].path
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(1000))
    asked.clear()
    refused(tmp_path, "fashion_mnist", "idx3-ubyte fails its check (1,000 bytes")
    assert asked == []


@pytest.mark.parametrize(("data_root", "moved", "words"), [
    (f"data/{CIFAR}", "", ["is the folder of cifar10 itself: data_root is {0}/data"]),
    ("mine", f"{CIFAR} ../mine", ["is the folder of cifar10 itself", f"DATA_ROOT/{CIFAR}/data_ba"]),
    ("", "", ["cifar10 is in {0}/data: data_root is that, not {0}"]),
    ("data", f"{CIFAR}/data_batch_1 data_batch_1.bin", ["data_batch_1.bin is of cifar10"]),
    ("data", f"{CIFAR} cifar-10-batches-mat", ["data_batch_1.mat is of cifar10 in another"]),
])  # fmt: skip
def test_a_folder_beside_the_right_one_is_named(
    data_root: str, moved: str, words: list[str], root: Path, asked: list[str]
) -> None:
    """Nothing is downloaded where the data are there, a folder too deep or in another form."""
    if moved:
        source, target = moved.split()
        (root / source).rename(root / target)
        if target != "../mine":
            (root / "cifar-10-python.tar.gz").unlink()
    if "batches-mat" in moved:
        (root / target / "data_batch_1").rename(root / target / "data_batch_1.mat")
    if ".bin" in moved:
        shutil.rmtree(root / CIFAR)
    told = [part.format(root.parent) for part in words]
    refusal_of(lambda: read_downloaded("cifar10", root.parent / data_root), *told)
    assert asked == []
