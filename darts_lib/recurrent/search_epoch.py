"""One epoch of a recurrent search: the text, a step for each segment, the row of the history."""

import math
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from darts_lib.data.text import batchify, inputs_and_targets, load_text, segments
from darts_lib.engine.determinism import seed_epoch
from darts_lib.engine.finite_guard import EVERY
from darts_lib.engine.progress import live
from darts_lib.engine.run_files import Row
from darts_lib.recurrent.genotype import derive
from darts_lib.recurrent.network import LanguageModel
from darts_lib.recurrent.relaxation import Alphas
from darts_lib.recurrent.search_space import KIND
from darts_lib.recurrent.search_step import (
    RecurrentSearchConfig,
    RecurrentSearchStep,
    Words,
    cross_entropy,
    summed,
)


class RecurrentSearch(RecurrentSearchStep):
    """The state of a search between two epochs, with its text, and the epoch itself.

    The alphas learn from the validation text, as in the original; the test text is never read.
    """

    LESS_MEMORY = "a smaller batch_size, width or bptt"

    def __init__(self, config: RecurrentSearchConfig, folder: object = "the run folder") -> None:
        device = config.open_device()
        corpus = load_text(config.dataset, config.data_folder).first(config.max_tokens)
        self.train = batchify(corpus.train, config.batch_size).to(device)
        self.valid = batchify(corpus.valid, config.batch_size).to(device)
        self.folder, self.words = folder, corpus.words
        seed_epoch(config.seed, -1, device)
        super().__init__(config, len(corpus.words), device)

    def epoch(self, epoch: int) -> Row:
        """Run epoch number `epoch` (from 0) and return its row of the history.

        Raises FloatingPointError when a gradient was no number.
        """
        started, config = time.perf_counter(), self.config
        generator = seed_epoch(config.seed, epoch, self.device)
        before = self.alphas[KIND].detach().clone()
        for hidden in (self.train_hidden, self.valid_hidden):
            hidden.zero_()
        self.guard.begin()
        total = torch.zeros(2, device=self.device)
        for number, (train, valid) in enumerate(self.batches(generator), 1):
            self.rate.fill_(config.learning_rate * len(train[0]) / config.bptt)
            self.train_masks.draw(generator)
            self.valid_masks.draw(generator)
            total += self.step(train, valid)
            if number % EVERY == 0:
                self.guard.check(epoch + 1, config.learning_rate, self.folder)
        self.guard.check(epoch + 1, config.learning_rate, self.folder)
        row: Row = {"epoch": epoch + 1, "learning_rate": config.learning_rate}
        row |= figures("train", total) | figures("valid", self.evaluate())
        return row | self._alpha_figures(before) | {"seconds": time.perf_counter() - started}

    def batches(self, generator: torch.Generator) -> Iterator[tuple[Words, Words]]:
        """Yield (training, validation) segments of one length; an epoch is once the training text.

        The validation text is read from its start again when too little of it is left for a
        segment; its hidden state is then 0 again too.
        """
        order = torch.Generator().manual_seed(generator.initial_seed())
        cut = segments(len(self.train), self.config.bptt, order)
        place = 0
        for start, length in live(cut[: self.config.max_steps or None]):
            if place + length > len(self.valid) - 1:
                place = 0
                self.valid_hidden.zero_()
            train = inputs_and_targets(self.train, (start, length))
            valid = inputs_and_targets(self.valid, (place, min(length, len(self.valid) - 1)))
            place += length
            yield train, valid

    def evaluate(self) -> Tensor:
        """Return (summed cross-entropy, words) of the supernet on the validation text.

        Nothing is dropped. The batch is that of the search: each batch is normalised by its own
        statistics, so a batch of another size would be another function.
        """
        limit = self.config.max_steps or None
        return evaluate_columns(self.net, self.valid, self.config.bptt, self.alphas, limit)

    def _alpha_figures(self, before: Tensor) -> Row:
        moved = self.alphas[KIND].detach() - before
        log_weights = torch.log_softmax(self.alphas[KIND].detach(), dim=-1)
        return {
            "entropy_recurrent": float(-(log_weights.exp() * log_weights).sum(dim=-1).mean()),
            "alpha_change": float(moved.norm()),
            "genotype": derive(self.alphas).to_dict(),
        }


@torch.no_grad()
def evaluate_columns(
    net: LanguageModel,
    columns: Tensor,
    bptt: int,
    alphas: Alphas | None = None,
    limit: int | None = None,
) -> Tensor:
    """Return (summed cross-entropy, words) over columns `(rows, batch)`, without dropout.

    The hidden state goes on from segment to segment; `limit` ends after so many.
    """
    hidden = net.first_hidden(columns.shape[1])
    total = torch.zeros(2, device=columns.device)
    for segment in segments(len(columns), bptt)[:limit]:
        tokens, targets = inputs_and_targets(columns, segment)
        out = net(tokens, hidden, alphas=alphas)
        hidden = out.hidden
        total += summed(cross_entropy(out, targets), targets)
    return total


def figures(split: str, total: Tensor) -> Row:
    """Return loss (nats a word) and perplexity from (summed cross-entropy, words)."""
    loss, count = total.tolist()
    return {f"{split}_loss": loss / count, f"{split}_perplexity": perplexity(loss / count)}


def perplexity(loss: float) -> float:
    """Return exp(loss): among how many equally likely words the model is undecided."""
    return math.exp(loss) if loss < 700 else math.inf
