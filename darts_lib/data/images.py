"""Image data sets as one uint8 tensor each, and augmentation with explicit generators.

A set of CIFAR's size fits on the device whole. Crop, flip, normalisation and cutout are then a
few tensor operations on a batch, drawn from a `torch.Generator`: no worker processes, so nothing
to seed, and a resumed run sees the same pictures as one that never stopped. None of them waits for
the device: what comes from the CPU is sent there beforehand.
"""

import dataclasses
import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from darts_lib.data import picture_folder
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.settings import DATASETS, DOWNLOADED

FLIPPED = ("cifar10", "cifar100", "fashion_mnist", "folder")
"""Data sets whose pictures may be mirrored: a mirrored digit is another sign."""
CIFAR10_MEAN = (0.49139968, 0.48215827, 0.44653124)
CIFAR10_STD = (0.24703233, 0.24348505, 0.26158768)

Split = Literal["train", "test"]
Pictures = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Pictures with their labels, and what is needed to feed them to a network.

    `images` is uint8 `(n, channels, height, width)`, `labels` int64 `(n,)`. `mean` and `std` are
    those of the training images, a figure a channel, pixels counted from 0 to 1. `pad` (pixels)
    and `flip` say how `augment` treats a batch.
    """

    name: str
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pad: int
    flip: bool

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def channels(self) -> int:
        """Return the number of channels: 1 (grey) or 3 (colour)."""
        return self.images.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width) in pixels."""
        return self.images.shape[2], self.images.shape[3]

    def to(self, device: torch.device | str) -> "ImageSet":
        """Return the set with images and labels on `device`."""
        images, labels = self.images.to(device), self.labels.to(device)
        return dataclasses.replace(self, images=images, labels=labels)

    def select(self, indices: Tensor | slice) -> "ImageSet":
        """Return the set with only these pictures, in this order."""
        if isinstance(indices, Tensor):
            indices = indices.to(self.images.device, non_blocking=True)
        images, labels = self.images[indices], self.labels[indices]
        return dataclasses.replace(self, images=images, labels=labels)


def load_images(
    dataset: str, data_root: Path, split: Split, size: int = 0, max_images: int = 0
) -> ImageSet:
    """Return one split of a data set, its pictures in file order.

    `size` is the side in pixels of a folder's pictures, 0 to find it from them. `max_images`
    above 0 keeps the first so many. Mean and std are always those of the whole training split;
    CIFAR-10's are the published code's constants.
    Raises SettingsError for an unknown data set, a size it does not have, or data that are
    missing, broken or cannot be downloaded.
    """
    _check_request(dataset, size, max_images)
    train, test, classes = _read(dataset, Path(os.path.expanduser(data_root)), size)
    mean, std = (CIFAR10_MEAN, CIFAR10_STD) if dataset == "cifar10" else statistics(train[0])
    images, labels = train if split == "train" else test
    # Four pixels for CIFAR and its like, an eighth of the side elsewhere: as much in proportion.
    pad = 4 if dataset in DOWNLOADED else max(1, train[0].shape[-1] // 8)
    loaded = ImageSet(dataset, images, labels, classes, mean, std, pad, dataset in FLIPPED)
    return loaded.select(slice(max_images)) if max_images else loaded


def _check_request(dataset: str, size: int, max_images: int) -> None:
    """Raise SettingsError unless the data set is known and the figures make sense for it."""
    if dataset not in DATASETS:
        near = difflib.get_close_matches(str(dataset), DATASETS, n=1, cutoff=0.3)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise SettingsError(
            f"dataset is {dataset!r}, which is not known.{hint} Known: {', '.join(DATASETS)}."
        )
    if size < 0 or (size and dataset != "folder"):
        raise SettingsError(
            f"image_size is {size} for dataset {dataset}: only the pictures of a "
            "folder are resized; leave image_size at 0."
        )
    if max_images < 0:
        raise SettingsError(f"max_images is {max_images}: use 0 (all pictures) or more.")


def _read(dataset: str, root: Path, size: int) -> tuple[Pictures, Pictures, tuple[str, ...]]:
    """Return the training pictures, the test pictures and the names of the classes."""
    if dataset == "folder":
        return picture_folder.read(root, size)
    # Only here: scikit-learn and torchvision take as long to load as torch itself, and `--help`
    # or a refused setting needs neither.
    from darts_lib.data import data_sets

    if dataset == "digits":
        return data_sets.read_digits()
    return data_sets.read_downloaded(dataset, root)


def statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation a channel of uint8 `images`, on the scale 0 to 1.

    Counts the 256 values first, so the sums are exact and need no float copy of the set. A
    channel of one value gets std 1.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in images.unbind(1):
        weights = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        mean.append(float(weights @ values))
        std.append(float((weights @ (values - mean[-1]) ** 2).sqrt()) or 1.0)
    return tuple(mean), tuple(std)


def halves(images: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Return the first half (it trains the weights) and the second half (it trains the alphas).

    In file order, as in the published code; paper, section 3.1. Raises SettingsError when a half
    has fewer than two pictures or lacks a class.
    """
    middle = len(images) // 2
    if middle < 2:
        raise SettingsError(
            f"{images.name} has {len(images)} pictures, too few for two halves of two: "
            "use at least 4 (more pictures, or a larger max_images)."
        )
    first, second = images.select(slice(middle)), images.select(slice(middle, None))
    counts = [
        half.labels.bincount(minlength=len(half.classes)).tolist() for half in (first, second)
    ]
    for name, in_first, in_second in zip(images.classes, *counts, strict=True):
        if not (in_first and in_second):
            raise SettingsError(
                f"class {name!r} of {images.name} has {in_first} pictures in the weights' half and "
                f"{in_second} in the alphas' half: both need one (add pictures of it, or raise "
                "max_images)."
            )
    return first, second


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return uint8 `(batch, channels, height, width)` as float32, mean 0 and deviation 1."""
    figures = torch.tensor([mean, std]).to(images.device, non_blocking=True)[..., None, None]
    return (images.float() / 255 - figures[0]) / figures[1]


def augment(batch: Tensor, like: ImageSet, cutout: int, generator: torch.Generator) -> Tensor:
    """Return a training batch: random crop, random flip, normalised, one box cut out.

    `batch` is uint8 `(batch, channels, height, width)`, the result float32 of that shape. `like`
    gives pad, flip, mean and std; `cutout` is the side of the box in pixels, 0 for none. Random
    numbers are drawn on the generator's device. Paper, appendix A.2.1 (with cutout).
    """
    count, _, height, width = batch.shape

    def draw(high: int) -> Tensor:
        drawn = torch.randint(high, (count,), generator=generator, device=generator.device)
        return drawn.to(batch.device)

    shifts = 2 * like.pad + 1
    mirrored = draw(2).bool() if like.flip else None
    images = crop_and_flip(batch, like.pad, draw(shifts), draw(shifts), mirrored)
    images = normalise(images, like.mean, like.std)
    return cut_out(images, draw(height), draw(width), cutout) if cutout else images


def crop_and_flip(
    batch: Tensor, pad: int, top: Tensor, left: Tensor, mirrored: Tensor | None
) -> Tensor:
    """Return a crop at (`top`, `left`) of each zero-padded picture, some of them mirrored.

    `top`, `left` (0 to 2 * pad) and `mirrored` (bool) have a figure a picture.
    """
    count, channels, height, width = batch.shape
    device = batch.device
    rows = top[:, None] + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(count, width)
    if mirrored is not None:
        columns = torch.where(mirrored[:, None], width - 1 - columns, columns)
    columns = left[:, None] + columns
    picture = torch.arange(count, device=device)[:, None, None, None]
    channel = torch.arange(channels, device=device)[:, None, None]
    padded = F.pad(batch, 4 * (pad,))
    return padded[picture, channel, rows[:, None, :, None], columns[:, None, None, :]]


def cut_out(images: Tensor, rows: Tensor, columns: Tensor, length: int) -> Tensor:
    """Return the pictures with a box of zeros around (`rows`, `columns`), clipped at the edge.

    The box covers the pixels from centre - length / 2 up to, not with, centre + length / 2.
    Zero is the mean colour of normalised pictures.
    """

    def inside(centre: Tensor, size: int) -> Tensor:
        offset = 2 * (torch.arange(size, device=images.device) - centre[:, None])
        return (offset >= -length) & (offset < length)

    box = inside(rows, images.shape[2])[:, :, None] & inside(columns, images.shape[3])[:, None]
    return images.masked_fill(box[:, None], 0.0)


Batch = tuple[Tensor, Tensor]
"""Images `(batch, channels, height, width)`, float32 and normalised, with labels `(batch,)`."""


def augmented_batch(
    images: ImageSet, indices: Tensor, cutout: int, generator: torch.Generator
) -> Batch:
    """Take pictures by index and augment them on their device."""
    chosen = images.select(indices)
    return augment(chosen.images, images, cutout, generator), chosen.labels


def clean_batch(images: ImageSet, indices: Tensor) -> Batch:
    """Take pictures by index as they are, normalised: for evaluation."""
    chosen = images.select(indices)
    return normalise(chosen.images, images.mean, images.std), chosen.labels


def a_class(labels: Tensor, classes: int) -> str:
    """Say how many examples a class has, from the fewest to the most: how even the classes are."""
    counts = labels.bincount(minlength=classes)
    fewest, most = int(counts.min()), int(counts.max())
    return f"{most} a class" if fewest == most else f"{fewest} to {most} a class"
