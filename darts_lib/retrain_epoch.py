"""One epoch of a retraining, with its data; and how a network is tested."""

import time
from collections.abc import Iterator

import torch

from darts_lib.finite_guard import EVERY
from darts_lib.images import ImageSet, epoch_batches, load_images
from darts_lib.network import CellStack
from darts_lib.progress import live
from darts_lib.retrain_step import RetrainConfig, RetrainStep
from darts_lib.runs import Row
from darts_lib.settings import seed_epoch
from darts_lib.training import Batch, augmented_batch, clean_batch, cosine, figures


class Retraining(RetrainStep):
    """The state of a retraining between two epochs, with its data, and the epoch itself."""

    def __init__(self, config: RetrainConfig, folder: object = "the run folder") -> None:
        device = config.open_device()
        images = load_images(
            config.dataset, config.data_folder, "train", config.image_size, config.max_images
        )
        self.train, self.folder = images.to(device), folder
        seed_epoch(config.seed, -1, device)
        super().__init__(config, len(images.classes), images.channels, device)

    def epoch(self, epoch: int) -> Row:
        """Run epoch number `epoch` (from 0) and return its row of the history.

        Raises FloatingPointError when a gradient was no number.
        """
        started, config = time.perf_counter(), self.config
        generator = seed_epoch(config.seed, epoch, self.device)
        rate = cosine(epoch, config.epochs, config.learning_rate, 0.0)
        # Grows from 0 and never quite reaches the full probability, as in the original.
        drop_path = config.drop_path * epoch / config.epochs
        self.rate.fill_(rate)
        self.drop_path.fill_(drop_path)
        self.guard.begin()
        self.net.train()
        total = torch.zeros(3, device=self.device)
        for number, batch in enumerate(self._batches(generator), 1):
            total += self.step(batch)
            if number % EVERY == 0:
                self.guard.check(epoch + 1, rate, self.folder)
        self.guard.check(epoch + 1, rate, self.folder)
        loss, correct, count = total.tolist()
        return {
            "epoch": epoch + 1,
            "learning_rate": rate,
            "drop_path": drop_path,
            "train_loss": loss / count,
            "train_accuracy": correct / count,
            "seconds": time.perf_counter() - started,
        }

    def _batches(self, generator: torch.Generator) -> Iterator[Batch]:
        config, order = self.config, torch.Generator().manual_seed(generator.initial_seed())
        batches = epoch_batches(len(self.train), config.batch_size, order)
        for indices in live(batches[: config.max_steps or None]):
            yield augmented_batch(self.train, indices, config.cutout, generator)


@torch.no_grad()
def evaluate(net: CellStack, images: ImageSet, batch_size: int = 96) -> dict[str, float]:
    """Return loss, top-1 and top-5 accuracy (0 to 1) of a network on clean images.

    Every image counts once, whatever the batches; the network's mode is put back afterwards.
    """
    training = net.training
    net.eval()
    total, in_top5 = torch.zeros(3, device=images.images.device), 0
    for indices in epoch_batches(len(images), max(2, min(batch_size, len(images))), None):
        batch, labels = clean_batch(images, indices)
        logits, _ = net(batch.contiguous(memory_format=torch.channels_last))
        total += figures(logits, labels)
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices
        in_top5 += int((best == labels[:, None]).sum())
    net.train(training)
    loss, correct, count = total.tolist()
    return {"loss": loss / count, "top1": correct / count, "top5": in_top5 / count}
