"""Ready-made image data sets: the digits of scikit-learn, and four that torchvision knows."""

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torchvision import datasets

from darts_lib.data.downloads import OTHER_WAYS, Archive, DataFile, prepare
from darts_lib.engine.refusals import SettingsError, one_line

CIFAR = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}
Pictures = tuple[Tensor, Tensor]
Splits = tuple[Pictures, Pictures, tuple[str, ...]]
"""Training (images, labels), test (images, labels), names of the classes."""


def read_digits() -> Splits:
    """Return scikit-learn's 1,797 digits, 8x8 and grey, in a fixed stratified split.

    1,437 train, 360 test; uint8 `(n, 1, 8, 8)`, the 17 grey levels spread over 0 to 255.
    """
    digits = load_digits()
    images = torch.from_numpy(digits.images * 255 / 16).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(digits.target).long()
    parts = train_test_split(range(len(labels)), test_size=360, random_state=0, stratify=labels)
    train, test = (torch.tensor(part) for part in parts)
    classes = tuple(str(name) for name in digits.target_names)
    return (images[train], labels[train]), (images[test], labels[test]), classes


def read_downloaded(dataset: str, root: Path) -> Splits:
    """Return one of the downloaded sets from the folder `root`, downloaded there first if need be.

    Pictures keep the order of the files. Raises SettingsError, in one line with a way out, when
    the data are broken, cannot be downloaded or cannot be written.
    """
    prepare(dataset, root, archives(dataset))
    try:
        return _read_files(dataset, root)
    except Exception as error:  # the right size or even the right bytes, and yet no pictures
        raise SettingsError(
            f"{dataset} in {root} cannot be read ({one_line(error)}): move its files away and run "
            f"again to download them, or {OTHER_WAYS}."
        ) from error


def _read_files(dataset: str, root: Path) -> Splits:
    if dataset == "svhn":
        parts = [datasets.SVHN(root, split=split) for split in ("train", "test")]
        classes = [str(digit) for digit in range(10)]
        pictures = [(torch.from_numpy(part.data), torch.from_numpy(part.labels)) for part in parts]
    elif dataset == "fashion_mnist":
        parts = [datasets.FashionMNIST(root, train=train) for train in (True, False)]
        classes = parts[0].classes
        pictures = [(part.data[:, None], part.targets) for part in parts]
    else:
        parts = [CIFAR[dataset](root, train=train) for train in (True, False)]
        classes = parts[0].classes
        pictures = [
            (torch.from_numpy(np.moveaxis(part.data, 3, 1)), torch.tensor(part.targets))
            for part in parts
        ]
    train, test = ((images.contiguous(), labels.long()) for images, labels in pictures)
    return train, test, tuple(classes)


def archives(dataset: str) -> list[Archive]:
    """Return the archives of a data set, with the addresses and checksums torchvision knows."""
    if dataset == "fashion_mnist":
        return _fashion_mnist_archives()
    if dataset == "svhn":
        known = [datasets.SVHN.split_list[split] for split in ("train", "test")]
        files = [(url, DataFile(name, md5)) for url, name, md5 in known]
        sizes = (182, 64)
        return [
            Archive(url, file, (file,), mb) for (url, file), mb in zip(files, sizes, strict=True)
        ]
    cifar = CIFAR[dataset]
    sums = [*cifar.train_list, *cifar.test_list, (cifar.meta["filename"], cifar.meta["md5"])]
    members = tuple(DataFile(f"{cifar.base_folder}/{name}", md5) for name, md5 in sums)
    return [Archive(cifar.url, DataFile(cifar.filename, cifar.tgz_md5), members, 170)]


def _fashion_mnist_archives() -> list[Archive]:
    """Return Fashion-MNIST's four; torchvision has no checksum of the unpacked files, so sizes."""
    mirror, folder = datasets.FashionMNIST.mirrors[0], "FashionMNIST/raw"
    # A header of 16 bytes before the images and of 8 before the labels.
    sizes = (60_000 * 784 + 16, 60_000 + 8, 10_000 * 784 + 16, 10_000 + 8)
    found = []
    for (name, md5), size, mb in zip(
        datasets.FashionMNIST.resources, sizes, (26, 1, 4, 1), strict=True
    ):
        member = DataFile(f"{folder}/{name.removesuffix('.gz')}", bytes=size)
        found.append(Archive(mirror + name, DataFile(f"{folder}/{name}", md5), (member,), mb))
    return found
