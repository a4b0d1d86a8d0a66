"""ImageNet and folders like it: too large for memory, so a DataLoader reads each batch from files.

`train/<class>/*.JPEG` to train on; `val/<class>/*.JPEG`, or the validation folder as it is handed
out, flat and with its labels in a file, to test on. Source of sizes and augmentation: DARTS paper,
section 3.2, and its code.
"""

import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from darts_lib.data.images import normalise
from darts_lib.data import picture_folder
from darts_lib.data.imagenet_labels import find_labels, labelled
from darts_lib.data.picture_folder import Labelled
from darts_lib.engine.refusals import SettingsError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's training pictures, a figure a channel, pixels from 0 to 1; as published."""
LAYOUT = (
    "FOLDER/train/<class>/*.JPEG with FOLDER/val/<class>/*.JPEG, or with ImageNet's flat FOLDER/val"
    " and its labels, where data_root is FOLDER"
)

Pictures = tuple[Tensor, Tensor]
"""Images `(batch, 3, height, width)` and labels `(batch,)`."""
Transform = Callable[[Image.Image], Tensor]
"""From a picture of any size to uint8 `(3, size, size)`."""


@dataclass(frozen=True, eq=False)
class PictureFiles:
    """Files of pictures, read at `size` (height, width), and their labels, int64 `(n,)`.

    `paths` are bytes in one array: worker processes share it, where a list of a million paths
    would be copied into each as its counts of references change.
    """

    paths: npt.NDArray[np.bytes_]
    labels: Tensor
    classes: tuple[str, ...]
    size: tuple[int, int]
    channels: int = 3

    @classmethod
    def of(cls, files: Labelled, classes: tuple[str, ...], size: int) -> "PictureFiles":
        """Pack a list of (path, label)."""
        paths = np.array([os.fsencode(path) for path, _ in files])
        labels = torch.tensor([label for _, label in files])
        return cls(paths, labels, classes, (size, size))

    def __len__(self) -> int:
        return len(self.labels)


def find_pictures(
    root: Path, size: int = 224, max_images: int = 0
) -> tuple[PictureFiles, PictureFiles]:
    """Return the files to train on and those to test on, and print which form was found.

    Only names are read. `max_images` above 0 keeps so many training pictures, of every class its
    share. Raises SettingsError for an empty folder, classes that one side lacks, wrong labels.
    """
    root = Path(os.path.realpath(os.path.expanduser(root)))
    if not os.path.isdir(root):
        raise SettingsError(f"the folder of pictures {root} is not there; expected: {LAYOUT}.")
    classes, paths = picture_folder.class_files(root / "train", LAYOUT)
    train = picture_folder.interleave(paths, np.random.RandomState(0))
    test, source = _held_out(root, classes)
    train = train[: max_images or None]
    print(
        f"{root}: {len(train)} training and {len(test)} test pictures in {len(classes)} classes, "
        f"read at {size}x{size} pixels; labels of val from {source}.",
        flush=True,
    )
    return PictureFiles.of(train, classes, size), PictureFiles.of(test, classes, size)


def _held_out(root: Path, classes: tuple[str, ...]) -> tuple[Labelled, str]:
    """Return the labelled files of `root/val`, in either form, and where their labels are from."""
    folder = root / "val"
    if {each.name for each in picture_folder.subfolders(folder)} & set(classes):
        names, paths = picture_folder.class_files(folder, LAYOUT)
        picture_folder.check_same_classes(root / "train", classes, folder, names)
        files = [(path, label) for label, found in enumerate(paths) for path in found]
        return files, "its class folders"
    if not (flat := picture_folder.pictures(folder)):
        raise SettingsError(f"{folder} has no pictures to test on; expected: {LAYOUT}.")
    labels, source = find_labels(root)
    return labelled(flat, labels, source, classes), str(source)


def training_transform(size: int) -> Transform:
    """Return the published augmentation."""
    from torchvision.transforms import v2  # slow to load, and only needed for reading

    transform: Transform = v2.Compose(
        [
            v2.RandomResizedCrop(size),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2),
            v2.PILToTensor(),
        ]
    )
    return transform


def clean_transform(size: int) -> Transform:
    """Return what test pictures go through: for 224 pixels the smaller side to 256, the centre."""
    from torchvision.transforms import v2

    steps = [v2.Resize(round(size * 256 / 224)), v2.CenterCrop(size), v2.PILToTensor()]
    transform: Transform = v2.Compose(steps)
    return transform


class Reader(Dataset[Pictures | SettingsError]):
    """Reads batches: indices `(batch,)` give uint8 images `(batch, 3, size, size)` and labels.

    With an `epoch_seed` pictures are augmented. The random numbers of each come from that seed and
    its index alone, so neither the number of workers nor the order changes a bit. A file that
    cannot be read gives the error as the value: raised in a worker it would lose its one line.
    """

    def __init__(self, files: PictureFiles, epoch_seed: int | None) -> None:
        self.files, self.epoch_seed = files, epoch_seed
        chosen = clean_transform if epoch_seed is None else training_transform
        self.transform = chosen(files.size[0])

    def __getitem__(self, indices: Tensor) -> Pictures | SettingsError:
        """Return the batch of these indices, or the error."""
        try:
            images = torch.stack([self._picture(index) for index in indices.tolist()])
        except SettingsError as error:
            return error
        return images, self.files.labels[indices]

    def _picture(self, index: int) -> Tensor:
        path = Path(os.fsdecode(self.files.paths[index]))
        try:
            with Image.open(path) as opened:
                # Not turned by its EXIF: published figures are of pictures as they are stored.
                picture = picture_folder.in_channels(opened, 3)
        except picture_folder.BROKEN as error:
            raise picture_folder.unreadable(path, error) from error
        if self.epoch_seed is None:
            image: Tensor = self.transform(picture)
            return image
        # torch's generator takes 32 bits of a seed; this mixes both numbers into them. The CPU's
        # alone is seeded and put back: in the training process others draw from it too.
        seed = np.random.SeedSequence((self.epoch_seed, index)).generate_state(1)
        with torch.random.fork_rng(devices=()):
            torch.default_generator.manual_seed(int(seed[0]))
            augmented: Tensor = self.transform(picture)
        return augmented


def read_batches(
    files: PictureFiles,
    batches: Sequence[Tensor],
    workers: int,
    device: torch.device,
    epoch_seed: int | None = None,
) -> Generator[Pictures]:
    """Yield the pictures of each batch of indices, normalised float32 on the device, with labels.

    They travel as bytes. Closing the generator, or an error, ends its worker processes. Raises
    SettingsError naming a file that cannot be read.
    """
    loader = DataLoader(
        Reader(files, epoch_seed),
        sampler=batches,
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # else it draws from the one that training draws from
    )
    iterator = iter(loader)
    try:
        for found in iterator:
            if isinstance(found, SettingsError):
                raise found
            images, labels = (part.to(device, non_blocking=True) for part in found)
            yield normalise(images, MEAN, STD), labels
    finally:
        if workers:  # not left to the collector: an error's traceback keeps the iterator alive
            iterator._shutdown_workers()  # type: ignore[attr-defined]


def _as_it_is(found: Any) -> Any:
    return found
