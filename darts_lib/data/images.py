"""Image data sets as one uint8 tensor each, and augmentation with explicit generators.

A set of CIFAR's size fits on the device whole. Crop, flip, normalisation and cutout are then a
few tensor operations on a batch, drawn from a `torch.Generator`: no worker processes, so nothing
to seed, and a resumed run sees the same pictures as one that never stopped. None of them waits for
the device: what comes from the CPU is sent there beforehand.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from darts_lib.data import picture_folder
from darts_lib.data.description import PictureData
from darts_lib.data.listing import Split
from darts_lib.data.pixels import EIGHT_BITS, Scale
from darts_lib.engine.batches import check_batch_size
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.settings import DOWNLOADED, known_dataset

FLIPPED = ("cifar10", "cifar100", "fashion_mnist", "folder")
"""Data sets whose pictures may be mirrored: a mirrored digit is another sign."""
CIFAR10_MEAN = (0.49139968, 0.48215827, 0.44653124)
CIFAR10_STD = (0.24703233, 0.24348505, 0.26158768)

Batch = tuple[Tensor, Tensor]
"""Images `(batch, channels, height, width)`, float32 and normalised, with labels `(batch,)`."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Pictures with their labels, and what is needed to feed them to a network.

    `images` is uint8 `(n, channels, height, width)`, `labels` int64 `(n,)`. `mean` and `std` are
    those of the training images, a figure a channel, pixels counted from 0 to 1. `pad` (pixels)
    and `flip` say how `augment` treats a batch. `scale` is how deeper pictures became 8 bits.
    """

    name: str
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pad: int
    flip: bool
    scale: Scale = EIGHT_BITS

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
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def select(self, indices: Tensor | slice) -> "ImageSet":
        """Return the set with only these pictures, in this order."""
        if isinstance(indices, Tensor):
            indices = indices.to(self.images.device, non_blocking=True)
        return replace(self, images=self.images[indices], labels=self.labels[indices])


def load_images(
    dataset: str,
    data_root: Path,
    split: Split,
    size: int = 0,
    max_images: int = 0,
    like: PictureData | None = None,
) -> ImageSet:
    """Return one split of `load_splits`, `train` or `test`."""
    return load_splits(dataset, data_root, size, max_images, like=like)[split]


def load_splits(
    dataset: str,
    data_root: Path,
    size: int = 0,
    max_images: int = 0,
    brief: bool = False,
    like: PictureData | None = None,
) -> dict[Split, ImageSet]:
    """Return the splits of a data set, their pictures in file order.

    All have `train` and `test`; a folder that has both a test and a validation folder also has
    `valid`. `size` is the side in pixels of a folder's pictures, 0 to find it from them.
    `max_images` above 0 keeps the first so many of each split. Mean and std are always those of the
    whole training split; CIFAR-10's are the published code's constants. `brief` is `Listing.tell`'s
    for a folder. Pictures for a network that was trained on others are made `like` those: with
    their size, channels, scale, mean and std, and their numbers of classes.
    Raises SettingsError for an unknown data set, a size it does not have, or data that are
    missing, broken or cannot be downloaded.
    """
    dataset = known_dataset(str(dataset))
    if size < 0 or (size and dataset != "folder"):
        raise SettingsError(
            f"image_size is {size} for dataset {dataset}: only the pictures of a "
            "folder are resized; leave image_size at 0."
        )
    if max_images < 0:
        raise SettingsError(f"max_images is {max_images}: use 0 (all pictures) or more.")
    root = Path(os.path.expanduser(data_root))
    scale = EIGHT_BITS
    if dataset == "folder":
        splits, classes, scale = picture_folder.read(root, size, brief, like)
    else:
        # Only here: scikit-learn and torchvision take as long to load as torch itself, and
        # `--help` or a refused setting needs neither.
        from darts_lib.data.data_sets import read_digits, read_downloaded

        splits, classes = read_digits() if dataset == "digits" else read_downloaded(dataset, root)
    pixels = splits["train"][0]
    mean, std = (CIFAR10_MEAN, CIFAR10_STD) if dataset == "cifar10" else statistics(pixels)
    if like and (like.classes or dataset == "folder"):
        own = dataset == "folder"
        numbers = like.numbers(classes, torch.arange(len(classes)), root if own else dataset)
        splits = {split: (images, numbers[old]) for split, (images, old) in splits.items()}
    if like and like.classes:
        classes, mean, std = like.classes, like.mean, like.std
    # Four pixels for CIFAR and its like, an eighth of the side elsewhere: as much in proportion.
    pad = 4 if dataset in DOWNLOADED else max(1, pixels.shape[-1] // 8)
    flip, kept = dataset in FLIPPED, max_images or None
    return {
        split: ImageSet(dataset, images[:kept], labels[:kept], classes, mean, std, pad, flip, scale)
        for split, (images, labels) in splits.items()
    }


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


def halves(images: ImageSet, valid: ImageSet | None = None) -> tuple[ImageSet, ImageSet]:
    """Return the first half (it trains the weights) and the second half (it trains the alphas).

    In file order, as in the published code; paper, section 3.1. A validation split, if there is
    one, takes the place of the second half. Raises SettingsError when a part has fewer than two
    pictures or lacks a class.
    """
    middle = len(images) // 2
    if middle < 2:
        raise SettingsError(
            f"{images.name} has {len(images)} pictures, too few for two halves of two: "
            "use at least 4 (more pictures, or a larger max_images)."
        )
    first, second = images.select(slice(middle)), images.select(slice(middle, None))
    if valid is not None:
        first, second = images, valid
    counts = (half.labels.bincount(minlength=len(images.classes)) for half in (first, second))
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
    mirrored = draw(2).bool().view(-1, 1, 1, 1) if like.flip else None
    windows = F.pad(batch, 4 * (like.pad,)).unfold(2, height, 1).unfold(3, width, 1)
    every = torch.arange(count, device=batch.device)
    images = windows[every, :, draw(shifts), draw(shifts)]
    if mirrored is not None:
        images = torch.where(mirrored, images.flip(-1), images)
    images = normalise(images, like.mean, like.std)
    return cut_out(images, draw(height), draw(width), cutout) if cutout else images


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


def sums(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (summed cross-entropy, correct, count) on the device, without waiting for it.

    Sums, not means: batches of different sizes are then weighted rightly.
    """
    loss = F.cross_entropy(logits, labels, reduction="sum")
    correct = (logits.argmax(dim=1) == labels).sum()
    return torch.stack([loss, correct.to(loss), torch.full_like(loss, len(labels))])


def figures(split: str, sums: Sequence[float]) -> dict[str, Any]:
    """Return loss and accuracy (0 to 1) of a split from such sums."""
    loss, correct, count = sums
    return {f"{split}_loss": loss / count, f"{split}_accuracy": correct / count}


def check_half(batch_size: int, count: int, valid: int = 0) -> None:
    """Raise SettingsError if a part of a search's pictures is less than a batch.

    Of `count` training pictures each part has half, or they are one part and `valid` the other.
    """
    if valid:
        check_batch_size(batch_size, count, "training pictures, for the weights")
        check_batch_size(batch_size, valid, "validation pictures, for the alphas")
    else:
        which = f"pictures for the weights, half of the {count} that are not for the test"
        check_batch_size(batch_size, count // 2, which)


def held_out(images: ImageSet, holdout: float) -> tuple[ImageSet, ImageSet]:
    """Return what is learnt from and a share that is held out, the last ones, in file order.

    Raises SettingsError when one of them has too few images, or no image of a class is learnt from.
    """
    kept = len(images) - round(holdout * len(images))
    first, last = images.select(slice(kept)), images.select(slice(kept, None))
    if holdout and (kept < 2 or not len(last)):
        raise SettingsError(
            f"holdout={holdout} leaves {kept} of the {len(images)} pictures to learn from and "
            f"{len(last)} to judge by; choose another share, or more pictures."
        )
    missing = sorted(set(range(len(first.classes))) - set(first.labels.tolist()))
    if holdout and missing:
        raise SettingsError(
            f"holdout={holdout} leaves no picture of class {first.classes[missing[0]]!r} of "
            f"{images.name} to learn from; choose a smaller share."
        )
    return first, last
