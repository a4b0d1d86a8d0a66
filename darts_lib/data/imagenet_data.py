"""ImageNet and folders like it: too large for memory, so a DataLoader reads each batch from files.

`train/<class>/*.JPEG` to train on; `val/<class>/*.JPEG`, or the validation folder as it is handed
out, flat and with its labels in a file, to test on, unless `test` has the classes. Source of sizes
and augmentation: DARTS paper, section 3.2, and its code.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from darts_lib.data import pixels
from darts_lib.data.images import normalise
from darts_lib.data.listing import Labelled, listed
from darts_lib.data.picture_folder import Pictures
from darts_lib.data.pixels import EIGHT_BITS, Scale
from darts_lib.engine.progress import duration
from darts_lib.engine.refusals import SettingsError, one_line

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's training pictures, a figure a channel, pixels from 0 to 1; as published."""
SHARED, PAGE = Path("/dev/shm"), 4096
"""Where Linux keeps the memory that processes share, and the bytes in which it is handed out."""
PREFETCH = 2
"""So many batches a worker has read, or is reading, before they are asked for."""
LOOK, PATIENCE = 5.0, 600.0
"""Seconds between two looks whether the workers live, and without a batch until a run ends."""
MORE_SHARED = "docker run --shm-size 1g, or fewer workers"
LOST = ("DataLoader", "Too many open files")
"""How torch's messages begin where a worker is no more or cannot be heard."""


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
    scale: Scale = EIGHT_BITS
    """How pictures of more than 8 bits become 8."""
    channels: int = 3
    name: str = "folder"
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    @classmethod
    def of(
        cls, files: Labelled, classes: tuple[str, ...], size: int, scale: Scale = EIGHT_BITS
    ) -> "PictureFiles":
        """Pack a list of (path, label)."""
        paths = np.array([os.fsencode(path) for path, _ in files])
        labels = torch.tensor([label for _, label in files])
        return cls(paths, labels, classes, (size, size), scale)

    def __len__(self) -> int:
        return len(self.labels)


def find_pictures(
    root: Path,
    size: int = 224,
    max_images: int = 0,
    scale: Scale | None = None,
    brief: bool = False,
) -> tuple[PictureFiles, PictureFiles]:
    """Return the files to train on and those to test on, and print what the folder has.

    Only names are read, and a sample of the pictures. `max_images` above 0 keeps so many training
    pictures, of every class its share; `scale` is for deep ones, if not theirs; `brief` is
    `Listing.tell`'s. Raises SettingsError as `listed` does, and for a picture of the sample that
    cannot be read.
    """
    listing = listed(Path(os.path.realpath(os.path.expanduser(root))))
    train, test = listing.train[: max_images or None], sorted(listing.test)
    samples = [[files[i][0] for i in pixels.sample(len(files))] for files in (train, test)]
    seen = pixels.survey(*samples, given=scale)
    learnt, judged = (
        PictureFiles.of(files, listing.classes, size, seen.scale) for files in (train, test)
    )
    listing.tell(f"read at {size}x{size} pixels.", brief)
    if listing.valid:
        print("the validation pictures are not used")
    images = Reader(learnt, None).pictures(pixels.sample(len(train)))
    for line in (*seen.notes, *pixels.oddities([images], seen.deep)):
        print(line, flush=True)
    return learnt, judged


def fingerprint(root: Path) -> dict[str, Any]:
    """Return what tells a folder's pictures from others: their names, and some contents."""
    listing = listed(Path(os.path.realpath(os.path.expanduser(root))))
    return listing.fingerprint("valid", large=True)


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
    cannot be read gives the error as the value: raised in a worker it would lose its one line. A
    worker shares its batch here: what torch cannot send later is lost, and waited for in vain.
    """

    def __init__(self, files: PictureFiles, epoch_seed: int | None) -> None:
        self.files, self.epoch_seed = files, epoch_seed
        self.transform = transform(files.size[0], augmented=epoch_seed is not None)

    def __getitem__(self, indices: Tensor) -> Pictures | SettingsError:
        """Return the batch of these indices, or the error."""
        try:
            batch = self.pictures(indices.tolist()), self.files.labels[indices]
        except SettingsError as error:
            return error
        try:
            for part in batch if get_worker_info() else ():
                part.share_memory_()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            return SettingsError(f"no shared memory is left ({one_line(error)}); {MORE_SHARED}.")
        return batch

    def pictures(self, indices: list[int]) -> Tensor:
        """Return the images of these indices; raise SettingsError for one that cannot be read."""
        return torch.stack([self._picture(index) for index in indices])

    def _picture(self, index: int) -> Tensor:
        path = Path(os.fsdecode(self.files.paths[index]))
        picture = pixels.picture_bytes(path, 3, self.files.scale)
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
    SettingsError naming a file that cannot be read; for too little shared memory, before the first
    batch; for workers that died, or have sent nothing for `PATIENCE` seconds.
    """
    check_shared_memory(files.size, map(len, batches), workers)
    loader = DataLoader(
        Reader(files, epoch_seed),
        sampler=batches,
        batch_size=None,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        timeout=LOOK if workers else 0,
        prefetch_factor=PREFETCH if workers else None,
        generator=torch.Generator(),  # else it draws from the one that training draws from
    )
    iterator: Any = None
    try:
        with workers_told(workers):
            iterator = iter(loader)
            for _ in batches:
                batch = _awaited(iterator)
                if isinstance(batch, SettingsError):
                    raise batch
                images, labels = (part.to(device, non_blocking=True) for part in batch)
                given = normalise(images, MEAN, STD), labels
                del batch, images  # their shared memory is the next batch's
                yield given
    finally:
        if workers and iterator:  # not left to the collector: an error's traceback keeps it alive
            iterator._shutdown_workers()
            for worker in iterator._workers:  # one that was stopped does not end when asked to
                worker.kill()
                worker.join(LOOK)


def check_shared_memory(size: tuple[int, int], lengths: Iterable[int], workers: int) -> None:
    """Raise SettingsError if the batches that are read ahead are more than is free of `SHARED`.

    `size` is (height, width) of the pictures, `lengths` are the batches'. torchrun's ranks on a
    machine share its memory.
    """
    if not workers or not SHARED.is_dir():
        return
    ahead = sorted(lengths)[-PREFETCH * workers :]
    parts = [part for n in ahead for part in (3 * size[0] * size[1] * n, 8 * n)]
    ranks, free = int(os.environ.get("LOCAL_WORLD_SIZE") or 1), shutil.disk_usage(SHARED).free
    if (needed := ranks * sum(-(-part // PAGE) * PAGE for part in parts)) > free:
        raise SettingsError(
            f"workers={workers} needs {max(1, round(needed / 1e6)):,} MB of shared memory, "
            f"{SHARED} has {free // 10**6:,}: {MORE_SHARED}."
        )


@contextlib.contextmanager
def workers_told(workers: int) -> Generator[None]:
    """Tell in one line that a worker died: torch raises that wherever the process happens to be."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        if isinstance(error, RuntimeError) and not str(error).startswith(LOST):
            raise
        raise SettingsError(
            f"workers={workers}: one that reads pictures died or hangs ({one_line(error)}); run it "
            "again, with fewer workers if memory is short: finished epochs are kept."
        ) from error


def _awaited(iterator: Any) -> Any:
    """Return the next batch; a timeout of the loader is only a look whether its workers live."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return next(iterator)
        except RuntimeError as error:
            if "timed out" not in str(error):
                raise
            if time.monotonic() >= deadline:
                raise RuntimeError(f"DataLoader: none in {duration(PATIENCE)}") from error
