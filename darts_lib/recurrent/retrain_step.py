"""The settings of a recurrent retraining; a step, and one epoch, tried again where it fails.

The steps are SGD's, on segments of drawn lengths under drawn masks. With so high a learning rate a
gradient is now and then no number; the epoch is then given up, everything goes back to how it stood
before it, and it is tried again with other masks and other cuts. Source: paper, A.2.2; the original
code goes back too, to its best checkpoint.
"""

import copy
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from pydantic import Field, ValidationInfo, field_validator, model_validator
from torch import Tensor, nn

from darts_lib.data.text import batchify, inputs_and_targets, load_text, segments
from darts_lib.engine.determinism import seed_epoch
from darts_lib.engine.finite_guard import EVERY, FiniteGuard
from darts_lib.engine.optimisers import follow
from darts_lib.engine.progress import live
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.run_files import Row
from darts_lib.recurrent.averaging import AveragedWeights
from darts_lib.recurrent.genotype import RecurrentGenotype, find_genotype
from darts_lib.recurrent.network import Masks, derived_network
from darts_lib.recurrent.search_epoch import evaluate_columns, figures
from darts_lib.recurrent.search_step import Words, activation_terms, cross_entropy, summed
from darts_lib.recurrent.settings import TextConfig

ATTEMPTS = 3
"""So often an epoch is tried; a gradient that is no number in all of them ends the run."""


class RecurrentRetrainConfig(TextConfig):
    """Settings of a recurrent retraining. The defaults are the paper's for Penn Treebank (A.2.2).

    For WikiText-2 the paper has width 700, dropout_hidden 0.15 and weight_decay 5e-7. `genotype`
    is anything `find_genotype` knows; it is stored as the cell's text, so that a run stays what it
    was when a file changes. `spread` is the standard deviation of the segments' lengths.
    `patience` is the number of last epochs that the rule for averaging leaves out. The validation
    text is read in `valid_batch_size` columns; the test text in one.
    """

    KIND = "recurrent-retrain"
    LAPTOP: ClassVar[dict[str, Any]] = {
        "dataset": "topics",
        "width": 64,
        "batch_size": 20,
        "epochs": 5,
        "threads": 1,
        # So short a training needs little against learning by heart.
        "dropout_words": 0.0,
        "dropout_cell_input": 0.2,
        "dropout_output": 0.2,
    }

    genotype: str = "DARTS_V2"
    width: int = Field(850, ge=1, le=100_000)
    epochs: int = Field(8000, ge=1)
    batch_size: int = Field(64, ge=1)
    valid_batch_size: int = Field(10, ge=1)
    weight_decay: float = Field(8e-7, ge=0)
    dropout_words: float = Field(0.1, ge=0, lt=1)
    spread: float = Field(5.0, ge=0)
    patience: int = Field(5, ge=1)

    @field_validator("genotype", mode="before")
    @classmethod
    def _name_to_cell(cls, name: object, info: ValidationInfo) -> object:
        if not isinstance(name, str | RecurrentGenotype | Path) or not str(name):
            return name  # empty: a chapter fills it with the cell that its search found
        return str(find_genotype(str(name), info.data.get("seed", 0)))

    @model_validator(mode="after")
    def _check_graph(self) -> Self:
        if self.graph == "on":
            raise ValueError("graph='on' is for the search; a retraining runs eagerly: use 'auto'")
        return self

    @property
    def cell(self) -> RecurrentGenotype:
        """Return the genotype itself; an empty name has none and is refused."""
        if not self.genotype:
            raise SettingsError("genotype is empty; name a cell, for example genotype='DARTS_V2'.")
        return RecurrentGenotype.from_text(self.genotype)


class RecurrentRetraining(AveragedWeights):
    """The state of a retraining between two epochs, with its text, and the epoch itself."""

    LESS_MEMORY = "a smaller batch_size, width or bptt"

    def __init__(self, config: RecurrentRetrainConfig, folder: object = "the run folder") -> None:
        self.config, self.folder, self.device = config, folder, config.open_device()
        self.corpus = load_text(config.dataset, config.data_folder).first(config.max_tokens)
        self.train = batchify(self.corpus.train, config.batch_size).to(self.device)
        self.valid = batchify(self.corpus.valid, config.valid_batch_size, "valid_batch_size").to(
            self.device
        )
        seed_epoch(config.seed, -1, self.device)
        words = len(self.corpus.words)
        self.net = derived_network(config.cell, config.width, words).to(self.device)
        super().__init__(list(self.net.parameters()), config.patience)
        self.rate = torch.tensor(config.learning_rate, device=self.device)
        self.optimiser = torch.optim.SGD(
            self.weights, self.rate, weight_decay=config.weight_decay, fused=True
        )
        self.guard = FiniteGuard(self.device)
        self.masks = Masks(config.dropout, config.batch_size, config.width, words, self.device)
        self.hidden = self.net.first_hidden(config.batch_size)
        self.best = self._copied()

    def epoch(self, epoch: int) -> Row:
        """Run epoch number `epoch` (from 0) and return its row of the history.

        `rollbacks` of the row are the attempts that were given up, whose seconds count. Raises
        FloatingPointError when a gradient was no number in each of `ATTEMPTS`; the checkpoint of
        the epoch before is then the run's last.
        """
        started, before, attempt = time.perf_counter(), copy.deepcopy(self.state()), 0
        while True:
            try:
                row = self._attempt(epoch, attempt)
                return row | {"rollbacks": attempt, "seconds": time.perf_counter() - started}
            except FloatingPointError as error:
                self.restore(before)
                attempt += 1
                if attempt == ATTEMPTS:
                    raise
                what = str(error).partition(";")[0]  # the rest is advice for a run that ends
                print(
                    f"{what}; all is put back to before the epoch, which is tried again with other "
                    f"masks and segments (attempt {attempt + 1} of {ATTEMPTS})",
                    flush=True,
                )

    def _attempt(self, epoch: int, attempt: int) -> Row:
        config = self.config
        generator = seed_epoch(config.seed, epoch, self.device, attempt)
        self.hidden.zero_()
        self.guard.begin()
        averaged, total = self.averaging, torch.zeros(2, device=self.device)
        for number, words in enumerate(self._batches(generator), 1):
            self.rate.fill_(config.learning_rate * len(words[0]) / config.bptt)
            self.masks.draw(generator)
            total += self.step(words)
            if number % EVERY == 0:
                self.guard.check(epoch + 1, config.learning_rate, self.folder)
        self.guard.check(epoch + 1, config.learning_rate, self.folder)
        row: Row = {"epoch": epoch + 1, "learning_rate": config.learning_rate}
        return row | figures("train", total) | self._validate() | {"averaged": averaged}

    def _batches(self, generator: torch.Generator) -> Iterator[Words]:
        order = torch.Generator().manual_seed(generator.initial_seed())
        cut = segments(len(self.train), self.config.bptt, order, self.config.spread)
        for segment in live(cut[: self.config.max_steps or None]):
            yield inputs_and_targets(self.train, segment)

    def step(self, words: Words) -> Tensor:
        """Take one step; return (summed cross-entropy, words) of the segment, on the device."""
        self.optimiser.zero_grad()
        out = self.net(words[0], self.hidden, self.masks)
        entropy = cross_entropy(out, words[1])
        loss = entropy + activation_terms(out, self.config.ar, self.config.tar)
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_(self.weights, self.config.clip)
        self.guard.watch(self.optimiser, loss, norm)
        self.optimiser.step()
        self.hidden.copy_(out.hidden.detach())
        self.guard.count()
        self.average()
        return summed(entropy, words[1])

    def _validate(self) -> Row:
        """Measure the validation text, keep the best weights, and say whether to average now."""
        with self.averages_in_place():
            found = figures("valid", evaluate_columns(self.net, self.valid, self.config.bptt))
            if all(found["valid_loss"] < loss for loss in self.valid_losses):
                self.best = self._copied()
        self.heard(found["valid_loss"])
        return found

    def _copied(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.net.named_parameters()}

    def take_best(self) -> None:
        """Give the network the weights with the lowest validation loss."""
        self.net.load_state_dict(self.best, strict=False)  # the tied matrix stands there once

    def state(self) -> dict[str, Any]:
        """Return all that the next epoch depends on; an epoch begins with a hidden state of 0."""
        return {
            "network": self.net.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            **self.average_state(),
            "best": self.best,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put a stored state back, bit for bit."""
        self.net.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        follow(self.optimiser, self.rate)
        self.restore_average(state)
        self.best = {name: value.to(self.device) for name, value in state["best"].items()}
