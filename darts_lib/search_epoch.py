"""One epoch of a search: the data, a step for each batch, and the row of the history."""

import time
from collections.abc import Iterator

import torch
from torch import Tensor

from darts_lib.data.images import Batch, ImageSet, augmented_batch, clean_batch, halves, load_images
from darts_lib.derivation import derive
from darts_lib.engine.batches import check_batch_size, epoch_batches
from darts_lib.engine.determinism import seed_epoch
from darts_lib.engine.finite_guard import EVERY
from darts_lib.engine.optimisers import cosine, figures
from darts_lib.engine.progress import live
from darts_lib.engine.run_files import Row
from darts_lib.relaxation import Alphas
from darts_lib.search_settings import SearchConfig
from darts_lib.search_space import KINDS
from darts_lib.search_step import SearchStep


class Search(SearchStep):
    """The state of a search between two epochs, with its data, and the epoch itself."""

    LESS_MEMORY = "recompute, or a smaller batch_size, channels, layers or nodes"

    def __init__(self, config: SearchConfig, folder: object = "the run folder") -> None:
        device = config.open_device()
        images = load_images(
            config.dataset, config.data_folder, "train", config.image_size, config.max_images
        )
        self.train, self.valid = (half.to(device) for half in halves(images))
        check_half(config.batch_size, len(images))
        self.folder = folder
        seed_epoch(config.seed, -1, device)
        shape = (images.channels, *images.size)
        super().__init__(config, len(images.classes), shape, device)
        self._test = self.fast.recorded(self.figures, list)  # it changes no tensor

    def epoch(self, epoch: int) -> Row:
        """Run epoch number `epoch` (from 0) and return its row of the history.

        Raises FloatingPointError when a gradient was no number.
        """
        started, generator = time.perf_counter(), seed_epoch(self.config.seed, epoch, self.device)
        before = {kind: value.detach().clone() for kind, value in self.alphas.items()}
        rate = cosine(
            epoch, self.config.epochs, self.config.learning_rate, self.config.final_learning_rate
        )
        self.rate.fill_(rate)
        self.guard.begin()
        total = torch.zeros(3, device=self.device)
        for number, (train, valid) in enumerate(self.batches(generator), 1):
            total += self.step(train, valid)
            if number % EVERY == 0:
                self.guard.check(epoch + 1, rate, self.folder)
        self.guard.check(epoch + 1, rate, self.folder)
        loss, correct, count = self.ranks.sum(total).tolist()
        row: Row = {"epoch": epoch + 1, "learning_rate": rate}
        row |= {"train_loss": loss / count, "train_accuracy": correct / count}
        row |= self.evaluate() | self._alpha_figures(before)
        return row | {"seconds": time.perf_counter() - started}

    def batches(self, generator: torch.Generator) -> Iterator[tuple[Batch, Batch]]:
        """Yield (training, validation) batches; an epoch goes through the weights' half once.

        The alphas' half is shuffled and used up before it is shuffled anew. Both are augmented,
        as in the original; `evaluate` uses clean images. Every rank draws the same batches and
        yields its part of them.
        """
        config, order = self.config, torch.Generator().manual_seed(generator.initial_seed())
        valid_batches: list[Tensor] = []
        batches = self._shuffled(self.train, order)
        for indices in live(batches[: self._limit]):
            valid_batches = valid_batches or self._shuffled(self.valid, order)
            train = augmented_batch(self.train, indices, config.cutout, generator)
            valid = augmented_batch(self.valid, valid_batches.pop(), config.cutout, generator)
            yield self.ranks.part(train), self.ranks.part(valid)

    def _shuffled(self, images: ImageSet, order: torch.Generator) -> list[Tensor]:
        return self.ranks.shared(epoch_batches(len(images), self.config.batch_size, order))

    def figures(self, images: Tensor, labels: Tensor, *alphas: Tensor) -> Tensor:
        """Return (summed loss, correct, count) of a batch, on the device."""
        with self.fast.autocast():
            given = dict(zip(self.alphas, alphas, strict=True))
            logits = self.logits(self.weights, images, given)
        return figures(logits.float(), labels)

    @torch.no_grad()
    def evaluate(self) -> Row:
        """Return loss and accuracy of the supernet on clean images of the alphas' half.

        The supernet keeps no running statistics: each batch is normalised by its own. The ranks
        take whole batches in turn, so the figures are those of one rank.
        """
        total = torch.zeros(3, device=self.device)
        batches = epoch_batches(len(self.valid), self.config.batch_size, None)[: self._limit]
        for indices in self.ranks.in_turn(batches):
            # The alphas are given, not taken: a caller may have put others in their place.
            total += self._test(*clean_batch(self.valid, indices), *self.alphas.values())
        loss, correct, count = self.ranks.sum(total).tolist()
        return {"valid_loss": loss / count, "valid_accuracy": correct / count}

    @property
    def _limit(self) -> int | None:
        return self.config.max_steps or None

    def _alpha_figures(self, before: Alphas) -> Row:
        row: Row = {f"entropy_{kind}": entropy(self.alphas[kind]) for kind in KINDS}
        moved = [(self.alphas[kind].detach() - before[kind]).square().sum() for kind in KINDS]
        limit = None if self.config.max_skip < 0 else self.config.max_skip
        genotype = derive(self.alphas, self.net.primitives, limit)
        row |= {"expected_madds": 1e6 * float(self.madds(self.alphas).detach())}
        row |= {"alpha_change": float(torch.stack(moved).sum().sqrt())}
        return row | {"skips": genotype.skips(), "genotype": genotype.to_dict()}


def check_half(batch_size: int, count: int) -> None:
    """Raise SettingsError if half of `count` training pictures is less than a batch."""
    which = f"pictures for the weights, half of the {count} that are not for the test"
    check_batch_size(batch_size, count // 2, which)


def entropy(alphas: Tensor) -> float:
    """Return the mean entropy (nats) of the edges' choices; ln(primitives) is 'undecided'."""
    log_weights = torch.log_softmax(alphas.detach(), dim=-1)
    return float(-(log_weights.exp() * log_weights).sum(dim=-1).mean())
