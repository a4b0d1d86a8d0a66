"""Ready-made image data sets: the digits of scikit-learn, and four that torchvision knows."""

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torchvision import datasets

from darts_lib.data.downloads import OTHER_WAYS, Archive, DataFile, prepare
from darts_lib.data.listing import Split
from darts_lib.data.picture_folder import Pictures, Splits
from darts_lib.engine.refusals import SettingsError, one_line

CIFAR = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}


def read_digits() -> Splits:
    """Return scikit-learn's 1,797 digits, 8x8 and grey, in a fixed stratified split.

    1,437 train, 360 test; uint8 `(n, 1, 8, 8)`, the 17 grey levels spread over 0 to 255.
    """
    digits = load_digits()
    images = torch.from_numpy(digits.images * 255 / 16).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(digits.target).long()
    parts = train_test_split(range(len(labels)), test_size=360, random_state=0, stratify=labels)
    train, test = ((images[part], labels[part]) for part in map(torch.tensor, parts))
    return {"train": train, "test": test}, tuple(map(str, digits.target_names))


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
    splits: dict[Split, Pictures] = {}
    names: tuple[Split, ...] = ("train", "test")
    for split in names:
        if dataset == "svhn":
            part = datasets.SVHN(root, split=split)
            images, labels = part.data, part.labels
        elif dataset == "fashion_mnist":
            part = datasets.FashionMNIST(root, train=split == "train")
            images, labels = part.data[:, None], part.targets
        else:
            part = CIFAR[dataset](root, train=split == "train")
            images, labels = np.moveaxis(part.data, 3, 1), part.targets
        splits[split] = torch.as_tensor(images).contiguous(), torch.as_tensor(labels).long()
    return splits, tuple(getattr(part, "classes", "0123456789"))  # SVHN names none


def archives(dataset: str) -> list[Archive]:
    """Return the archives of a data set, with the addresses and checksums torchvision knows."""
    made = []
    if dataset == "svhn":
        for split, megabytes in (("train", 182), ("test", 64)):
            url, name, md5 = datasets.SVHN.split_list[split]
            file = DataFile(name, md5)
            made.append(Archive(url, file, (file,), megabytes))
    elif dataset == "fashion_mnist":
        mirror = datasets.FashionMNIST.mirrors[0]
        # No checksum of the unpacked files is known, so their sizes: a header of 16 bytes before
        # the images and of 8 before the labels.
        sizes = (60_000 * 784 + 16, 60_000 + 8, 10_000 * 784 + 16, 10_000 + 8)
        known = zip(datasets.FashionMNIST.resources, sizes, (26, 1, 4, 1), strict=True)
        for (name, md5), size, megabytes in known:
            path = f"FashionMNIST/raw/{name}"
            member = DataFile(path.removesuffix(".gz"), bytes=size)
            made.append(Archive(mirror + name, DataFile(path, md5), (member,), megabytes))
    else:
        cifar = CIFAR[dataset]
        sums = [*cifar.train_list, *cifar.test_list, (cifar.meta["filename"], cifar.meta["md5"])]
        members = tuple(DataFile(f"{cifar.base_folder}/{name}", md5) for name, md5 in sums)
        made.append(Archive(cifar.url, DataFile(cifar.filename, cifar.tgz_md5), members, 170))
    return made
