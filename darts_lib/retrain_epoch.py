"""One epoch of a retraining, with its data; and how a network is tested."""

import contextlib
import time
from collections.abc import Generator, Iterable
from typing import Protocol

import torch
from torch import Tensor

from darts_lib.data.images import Batch, ImageSet, augmented_batch, clean_batch, load_images
from darts_lib.engine.batches import check_batch_size, epoch_batches
from darts_lib.engine.determinism import seed_epoch
from darts_lib.engine.finite_guard import EVERY
from darts_lib.engine.optimisers import figures
from darts_lib.engine.progress import live
from darts_lib.engine.ranks import Ranks
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.run_files import Row
from darts_lib.network import CellStack
from darts_lib.retrain_step import RetrainConfig, RetrainStep


class TrainingSet(Protocol):
    """What every set of training pictures tells of itself; `size` is (height, width)."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes."""

    @property
    def labels(self) -> Tensor:
        """Return the class of each picture, int64 `(n,)`."""

    @property
    def channels(self) -> int:
        """Return the number of channels."""

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width) in pixels."""

    def __len__(self) -> int: ...


class RetrainEpoch(RetrainStep):
    """The state of a retraining between two epochs, and the epoch itself.

    A subclass holds the pictures: the `batches` of an epoch, and the `test` at the end.
    """

    train: TrainingSet
    LESS_MEMORY = "accumulate, or a smaller batch_size, channels or layers"

    def __init__(
        self, config: RetrainConfig, train: TrainingSet, device: torch.device, folder: object
    ) -> None:
        self.train, self.folder = train, folder
        check_batch_size(config.batch_size, len(train))
        seed_epoch(config.seed, -1, device)
        super().__init__(config, len(train.classes), train.channels, device)

    def batches(self, generator: torch.Generator) -> Generator[Batch]:
        """Yield an epoch's augmented batches, on the device; `generator` is the epoch's own."""
        raise NotImplementedError(f"{type(self).__name__} has no pictures: define batches.")

    def test(self) -> dict[str, float]:
        """Return `tested`'s figures on the test pictures, which are read here and only here."""
        raise NotImplementedError(f"{type(self).__name__} has no test pictures: define test.")

    def seconds_with_batch(self, step: float) -> float:
        """Return the seconds that a step takes with its batch; `step` alone takes so many."""
        return step

    def index_batches(self, generator: torch.Generator) -> list[Tensor]:
        """Return the indices of an epoch's batches, shuffled alike on every device and rank."""
        config, order = self.config, torch.Generator().manual_seed(generator.initial_seed())
        batches = self.ranks.shared(epoch_batches(len(self.train), config.batch_size, order))
        return batches[: config.max_steps or None]

    def epoch(self, epoch: int) -> Row:
        """Run epoch number `epoch` (from 0) and return its row of the history.

        Raises FloatingPointError when a gradient was no number.
        """
        started, config = time.perf_counter(), self.config
        generator = seed_epoch(config.seed, epoch, self.device)
        if self.ranks.rank:  # each rank drops paths of its own
            torch.manual_seed(generator.initial_seed() + self.ranks.rank)
        rate = config.rate(epoch)
        # Grows from 0 and never quite reaches the full probability, as in the original.
        drop_path = config.drop_path * epoch / config.epochs
        self.rate.fill_(rate)
        self.drop_path.fill_(drop_path)
        self.guard.begin()
        self.net.train()
        total = torch.zeros(3, device=self.device)
        with contextlib.closing(self.batches(generator)) as batches:
            for number, batch in enumerate(batches, 1):
                total += self.step(batch)
                if number % EVERY == 0:
                    self.guard.check(epoch + 1, rate, self.folder)
        self.guard.check(epoch + 1, rate, self.folder)
        self.share_statistics()
        loss, correct, count = self.ranks.sum(total).tolist()
        return {
            "epoch": epoch + 1,
            "learning_rate": rate,
            "drop_path": drop_path,
            "train_loss": loss / count,
            "train_accuracy": correct / count,
            "seconds": time.perf_counter() - started,
        }


class Retraining(RetrainEpoch):
    """A retraining whose pictures all lie on the device."""

    train: ImageSet

    def __init__(self, config: RetrainConfig, folder: object = "the run folder") -> None:
        device = config.open_device()
        super().__init__(config, training_images(config).to(device), device, folder)

    def batches(self, generator: torch.Generator) -> Generator[Batch]:
        """Yield an epoch's augmented batches."""
        for indices in live(self.index_batches(generator)):
            batch = augmented_batch(self.train, indices, self.config.cutout, generator)
            yield self.ranks.part(batch)

    def test(self) -> dict[str, float]:
        """Return `evaluate`'s figures on the test images, or on those held out for them."""
        images = judging_images(self.config).to(self.device)
        return evaluate(self.net, images, self.config.batch_size)


def training_images(config: RetrainConfig) -> ImageSet:
    """Return the images that a retraining learns from: all but those held out."""
    return _training_split(config)[0]


def judging_images(config: RetrainConfig) -> ImageSet:
    """Return the images that judge a retraining: with a holdout these are training images."""
    if config.holdout:
        return _training_split(config)[1]
    return load_images(config.dataset, config.data_folder, "test", config.image_size)


def _training_split(config: RetrainConfig) -> tuple[ImageSet, ImageSet]:
    """Return what is learnt from and what is held out, in file order as in a search.

    Raises SettingsError when one of them has too few images, or no image of a class is learnt from.
    """
    images = load_images(
        config.dataset, config.data_folder, "train", config.image_size, config.max_images
    )
    kept = len(images) - round(config.holdout * len(images))
    first, last = images.select(slice(kept)), images.select(slice(kept, None))
    if config.holdout and (kept < 2 or not len(last)):
        raise SettingsError(
            f"holdout={config.holdout} leaves {kept} of the {len(images)} pictures to learn from "
            f"and {len(last)} to judge by; choose another share, or more pictures."
        )
    counts = first.labels.bincount(minlength=len(first.classes)).tolist()
    missing = [name for name, count in zip(first.classes, counts, strict=True) if not count]
    if config.holdout and missing:
        raise SettingsError(
            f"holdout={config.holdout} leaves no picture of class {missing[0]!r} of {images.name} "
            "to learn from; choose a smaller share."
        )
    return first, last


def evaluate(net: CellStack, images: ImageSet, batch_size: int = 96) -> dict[str, float]:
    """Return `tested`'s figures of a network on clean images."""
    batches = epoch_batches(len(images), max(2, min(batch_size, len(images))), None)
    own = Ranks.current().in_turn(batches)
    return tested(net, (clean_batch(images, indices) for indices in own))


@torch.no_grad()
def tested(net: CellStack, batches: Iterable[Batch]) -> dict[str, float]:
    """Return loss, top-1 and top-5 accuracy (0 to 1), and the number of images.

    Every image counts once, whatever the batches; the network's mode is put back afterwards. Each
    rank gives its own batches, and all get the figures of all.
    """
    training = net.training
    net.eval()
    total = torch.zeros(4, device=next(net.parameters()).device)
    for batch, labels in batches:
        logits, _ = net(batch.contiguous(memory_format=torch.channels_last))
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices
        in_top5 = (best == labels[:, None]).sum()
        total += torch.cat([figures(logits, labels), in_top5[None]])
    net.train(training)
    loss, correct, count, in_top5 = Ranks.current().sum(total).tolist()
    shares = {"loss": loss / count, "top1": correct / count, "top5": in_top5 / count}
    return {**shares, "images": count}


def errors_line(top1: float, top5: float, classes: int) -> str:
    """Write errors (0 to 1) in percent; among five classes or fewer a top-5 error says nothing."""
    also = f", top-5 error {100 * top5:.2f} %" if classes > 5 else ""
    return f"top-1 error {100 * top1:.2f} %{also}"
