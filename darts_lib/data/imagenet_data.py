"""ImageNet and folders like it: too large for memory, so a DataLoader reads each batch from files.

`train/<class>/*.JPEG` to train on; `val/<class>/*.JPEG`, or the validation folder as it is handed
out, flat and with its labels in a file, to test on. Source of sizes and augmentation: DARTS paper,
section 3.2, and its code.
"""

import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from scipy.io import loadmat
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from darts_lib.data import picture_folder
from darts_lib.data.images import normalise
from darts_lib.data.picture_folder import EXTENSIONS, ClassFiles, Labelled, Pictures
from darts_lib.engine.refusals import SettingsError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's training pictures, a figure a channel, pixels from 0 to 1; as published."""
LAYOUT = (
    "FOLDER/train/<class>/*.JPEG with FOLDER/val/<class>/*.JPEG, or with ImageNet's flat FOLDER/val"
    " and its labels, where data_root is FOLDER"
)


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
    files = picture_folder.class_files(root, "train", LAYOUT)
    classes = tuple(files)
    train = picture_folder.interleave(files, np.random.RandomState(0))[: max_images or None]
    test, source = _held_out(root, files)
    print(
        f"{root}: {len(train)} training and {len(test)} test pictures in {len(classes)} classes, "
        f"read at {size}x{size} pixels; labels of val from {source}.",
        flush=True,
    )
    return PictureFiles.of(train, classes, size), PictureFiles.of(test, classes, size)


def _held_out(root: Path, train: ClassFiles) -> tuple[Labelled, str]:
    """Return the labelled files of `root/val`, in either form, and where their labels are from."""
    folder = root / "val"
    if {each.name for each in picture_folder.subfolders(folder)} & set(train):
        files = picture_folder.held_out_files(root, "val", train, LAYOUT)
        pairs = [(path, label) for label, name in enumerate(files) for path in files[name]]
        return pairs, "its class folders"
    if not (flat := picture_folder.pictures(folder)):
        raise SettingsError(f"{folder} has no pictures to test on; expected: {LAYOUT}.")
    labels, source = _find_labels(root)
    _check_labels(flat, labels, source, train)
    place = {name: index for index, name in enumerate(train)}
    return [(path, place[labels[_stem(path.name)]]) for path in flat], str(source)


def transform(size: int, augmented: bool) -> Callable[[Image.Image], Tensor]:
    """Return the published augmentation, or what test pictures go through.

    Both take a picture of any size to uint8 `(3, size, size)`. For 224 pixels the second resizes
    the smaller side to 256 and cuts the centre out.
    """
    from torchvision.transforms import v2  # slow to load, and only needed for reading

    if augmented:
        jitter = v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2)
        steps = [v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), jitter]
    else:
        steps = [v2.Resize(round(size * 256 / 224)), v2.CenterCrop(size)]
    composed: Callable[[Image.Image], Tensor] = v2.Compose([*steps, v2.PILToTensor()])
    return composed


class Reader(Dataset[Pictures | SettingsError]):
    """Reads batches: indices `(batch,)` give uint8 images `(batch, 3, size, size)` and labels.

    With an `epoch_seed` pictures are augmented. The random numbers of each come from that seed and
    its index alone, so neither the number of workers nor the order changes a bit. A file that
    cannot be read gives the error as the value: raised in a worker it would lose its one line.
    """

    def __init__(self, files: PictureFiles, epoch_seed: int | None) -> None:
        self.files, self.epoch_seed = files, epoch_seed
        self.transform = transform(files.size[0], augmented=epoch_seed is not None)

    def __getitem__(self, indices: Tensor) -> Pictures | SettingsError:
        """Return the batch of these indices, or the error."""
        try:
            images = torch.stack([self._picture(index) for index in indices.tolist()])
        except SettingsError as error:
            return error
        return images, self.files.labels[indices]

    def _picture(self, index: int) -> Tensor:
        path = Path(os.fsdecode(self.files.paths[index]))
        with picture_folder.opened(path) as file:
            # Not turned by its EXIF: published figures are of pictures as they are stored.
            picture = picture_folder.in_channels(file, 3)
        if self.epoch_seed is None:
            return self.transform(picture)
        # torch's generator takes 32 bits of a seed; this mixes both numbers into them. The CPU's
        # alone is seeded and put back: in the training process others draw from it too.
        seed = np.random.SeedSequence((self.epoch_seed, index)).generate_state(1)
        with torch.random.fork_rng(devices=()):
            torch.default_generator.manual_seed(int(seed[0]))
            return self.transform(picture)


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
        num_workers=workers,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # else it draws from the one that training draws from
    )
    iterator = iter(loader)
    try:
        for batch in iterator:
            if isinstance(batch, SettingsError):
                raise batch
            images, labels = (part.to(device, non_blocking=True) for part in batch)
            yield normalise(images, MEAN, STD), labels
    finally:
        if workers:  # not left to the collector: an error's traceback keeps the iterator alive
            iterator._shutdown_workers()  # type: ignore[attr-defined]


# --- the labels of a flat folder of validation pictures, in the forms in which they are handed out

TRUTH = "ILSVRC2012_validation_ground_truth.txt"
TEXTS = ("val_labels.txt", "LOC_val_solution.csv", "val_annotations.txt")
"""Our own plain form, Kaggle's and Tiny ImageNet's: a line a picture, its file and its class."""
KIT = "ILSVRC2012_devkit_t12/data"

Labels = dict[str, str]  # the class of each picture, by its file's name without the extension


def _find_labels(root: Path) -> tuple[Labels, Path]:
    """Return the labels of `root/val`'s pictures, and the file that they come from.

    It is looked for in `root/val`, `root` and the three folders above `root`, also in an unpacked
    development kit there.
    """
    for place in (root / "val", root, *root.parents[:3]):
        for name in (*TEXTS, TRUTH, f"{KIT}/{TRUTH}"):
            if (file := place / name).is_file():
                read = _text_labels if name in TEXTS else _kit_labels
                return read(file), file
    raise SettingsError(
        f"{root / 'val'} has neither the class folders of {root / 'train'} nor labels: put "
        f"{TRUTH} with meta.mat (from the development kit), {', '.join(TEXTS[:-1])} or "
        f"{TEXTS[-1]} into {root}, or sort the pictures into val/<class>."
    )


def _check_labels(flat: list[Path], labels: Labels, source: Path, train: ClassFiles) -> None:
    """Refuse a picture without a label, a label without a picture, a class of only one side."""
    names = {_stem(path.name) for path in flat}
    bare, spare = sorted(names - set(labels)), sorted(set(labels) - names)
    if bare or spare:
        first = f"{bare[0]} has no label" if bare else f"{spare[0]} has no picture"
        raise SettingsError(
            f"{source} labels {len(labels)} pictures, but there are {len(names)} (for example, "
            f"{first}): add or remove pictures until both are the same."
        )
    if odd := sorted(set(labels.values()) ^ set(train)):
        raise SettingsError(
            f"the classes of the training pictures and of {source} differ in {len(odd)}, "
            f"{', '.join(odd[:5])}: train/ needs a folder a class, named as the labels are."
        )


def _stem(name: str) -> str:
    stem, dot, extension = name.rpartition(".")
    return stem if dot + extension.lower() in EXTENSIONS else name


def _text_labels(file: Path) -> Labels:
    """Read lines of `file class`, with a comma or blanks between; what follows is left out."""
    labels = {}
    for number, line in enumerate(_lines(file), 1):
        fields = line.replace(",", " ").split()
        if len(fields) < 2:
            raise SettingsError(f"{file}, line {number}: {line!r} is not 'file class'; repair it.")
        if fields[0] != "ImageId":  # the head of Kaggle's table
            labels[_stem(fields[0])] = fields[1]
    return labels


def _kit_labels(truth: Path) -> Labels:
    """Read the kit's numbers, one for each picture in order; meta.mat tells what they stand for."""
    meta = truth.with_name("meta.mat")
    try:  # the WNID of each ILSVRC2012_ID, which counts from 1
        synsets = np.atleast_1d(loadmat(meta, squeeze_me=True)["synsets"])
        classes = {str(int(each["ILSVRC2012_ID"])): str(each["WNID"]) for each in synsets}
    except Exception as error:  # SciPy's are of all kinds for a file that is no meta.mat
        raise SettingsError(
            f"{meta}, which says what the numbers of {TRUTH} stand for, cannot be read "
            f"({type(error).__name__}: {error}); take it from the development kit."
        ) from error
    labels = {}
    for number, line in enumerate(_lines(truth), 1):
        if line not in classes:
            raise SettingsError(
                f"{truth}, line {number}: {line!r} is no ILSVRC2012_ID of meta.mat beside it; "
                "unpack the development kit again."
            )
        labels[f"ILSVRC2012_val_{number:08}"] = classes[line]
    return labels


def _lines(file: Path) -> list[str]:
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line]
    except (OSError, ValueError) as error:
        raise SettingsError(f"{file} cannot be read as text ({error}); get it again.") from error
