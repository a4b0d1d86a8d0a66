"""Retraining a recurrent cell: a language model from scratch, averaged, tested once at the end.

The steps are SGD's, on segments of drawn lengths under drawn masks. When the validation loss has
not improved for a while, the weights of all later steps are averaged, and from then on the average
is what is evaluated:

    start when  L_valid > min(L_valid of all earlier epochs but the last 5)
    average     a_n = a_{n-1} + (w_n - a_{n-1}) / n

SGD itself goes on from its own weights. With so high a learning rate a gradient is now and then no
number; all then goes back to how it stood before the epoch, which is tried again with other masks
and cuts; the original code goes back to its best checkpoint. Source: paper, A.2.2; Merity, 2017.
"""

import copy
import time
from collections.abc import Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from darts_lib.cost.complexity import count_parameters
from darts_lib.data.text import Corpus, batchify, segments, unigram_perplexity
from darts_lib.engine.folder import Row, read_json
from darts_lib.engine.optimisers import Part
from darts_lib.engine.progress import live
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.run import UNNAMED, OnEpoch, Result, run_in_folder
from darts_lib.formats.cell_choice import CellSettings
from darts_lib.formats.weight_files import WEIGHTS, check_fit, load_weights, read_run, save_weights
from darts_lib.recurrent.genotype import CELLS, RecurrentGenotype
from darts_lib.recurrent.network import LanguageModel, derived_network
from darts_lib.recurrent.search import TextRun, Words, evaluate_columns
from darts_lib.recurrent.settings import TextConfig

RecurrentRetrainResult = Result[RecurrentGenotype]
"""A finished retraining; `figures["test_perplexity"]`, of the best weights, is the result."""

ATTEMPTS = 3
"""So often an epoch is tried; a gradient that is no number in all of them ends the run."""


class RecurrentRetrainConfig(CellSettings, TextConfig):
    """Settings of a recurrent retraining. The defaults are the paper's for Penn Treebank (A.2.2).

    For WikiText-2 the paper has width 700, dropout_hidden 0.15 and weight_decay 5e-7. `genotype` is
    that of `CellSettings`. `spread` is the standard deviation of the segments' lengths.
    `patience` is the number of last epochs that the rule for averaging leaves out. The validation
    text is read in `valid_batch_size` columns; the test text in one.
    """

    KIND = "recurrent-retrain"
    CELLS = CELLS
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

    width: int = Field(850, ge=1, le=100_000)
    epochs: int = Field(8000, ge=1)
    batch_size: int = Field(64, ge=1)
    valid_batch_size: int = Field(10, ge=1)
    weight_decay: float = Field(8e-7, ge=0)
    dropout_words: float = Field(0.1, ge=0, lt=1)
    spread: float = Field(5.0, ge=0)
    patience: int = Field(5, ge=1)

    @model_validator(mode="after")
    def _check_graph(self) -> Self:
        if self.graph == "on":
            raise ValueError("graph='on' is for the search; a retraining runs eagerly: use 'auto'")
        return self


class RecurrentRetraining(TextRun):
    """A retraining between two epochs: network, its average, text, and one step."""

    CONFIG = RecurrentRetrainConfig
    PRINTED = ("train_perplexity", "valid_perplexity", "averaged", "seconds")
    KEPT = ("history.jsonl", WEIGHTS)
    config: RecurrentRetrainConfig

    def __init__(
        self, config: RecurrentRetrainConfig, folder: object = UNNAMED, data: Corpus | None = None
    ) -> None:
        super().__init__(config, folder, data)
        valid = batchify(self.corpus.valid, config.valid_batch_size, "valid_batch_size")
        self.valid = valid.to(self.device)
        self.average = copy.deepcopy(self.net)
        self.averaging, self.averaged_steps = False, 0
        self.valid_losses: list[float] = []
        self.best = self._weights()

    def build(self, words: int) -> LanguageModel:
        """Return the untrained network for so many words."""
        return derived_network(self.config.cell, self.config.width, words)

    def parts(self) -> Mapping[str, Part]:
        """Return what a checkpoint keeps."""
        networks: dict[str, Part] = {"network": self.net, "average": self.average}
        return {**networks, "best": self.best, "optimiser": self.optimiser}

    def state(self) -> dict[str, Any]:
        """Return all that the next epoch depends on."""
        average = {"averaging": self.averaging, "averaged_steps": self.averaged_steps}
        return super().state() | average | {"valid_losses": list(self.valid_losses)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put a stored state back, bit for bit."""
        super().restore(state)
        self.averaging, self.averaged_steps = state["averaging"], state["averaged_steps"]
        self.valid_losses = list(state["valid_losses"])

    def step(self, words: Words) -> Tensor:
        """Take one step; return (summed cross-entropy, words) of the segment, on the device."""
        self.optimiser.zero_grad()  # frees the gradients of the last step before this one's
        total = self.weight_step(words)
        if self.averaging:  # by hand: torch's `AveragedModel` asks the device for its count
            self.averaged_steps += 1
            averages, weights = tuple(self.average.parameters()), tuple(self.net.parameters())
            with torch.no_grad():
                torch._foreach_lerp_(averages, weights, 1 / self.averaged_steps)
        return total

    def epoch(self, epoch: int) -> Row:
        """Run epoch number `epoch` (from 0) and return its row of the history.

        `rollbacks` of the row are the attempts that were given up, whose seconds count. Raises
        FloatingPointError when a gradient was no number in each of `ATTEMPTS`.
        """
        started, before = time.perf_counter(), copy.deepcopy(self.state())
        for self.attempt in range(ATTEMPTS):
            try:
                row = super().epoch(epoch) | {"rollbacks": self.attempt}
                return row | {"seconds": time.perf_counter() - started}
            except FloatingPointError as error:
                self.restore(before)
                if self.attempt + 1 == ATTEMPTS:
                    raise
                what = str(error).partition(";")[0]  # the rest is advice for a run that ends
                print(
                    f"{what}; all is put back to before the epoch, which is tried again with other "
                    f"masks and segments (attempt {self.attempt + 2} of {ATTEMPTS})",
                    flush=True,
                )
            finally:
                self.attempt = 0
        raise AssertionError("an epoch has at least one attempt")

    def batches(self, generator: torch.Generator) -> Generator[tuple[Words]]:
        """Yield segments of drawn lengths, their masks and rate set."""
        config, order = self.config, torch.Generator().manual_seed(generator.initial_seed())
        cut = segments(len(self.train), config.bptt, order, config.spread)
        for segment in live(cut[: config.max_steps or None]):
            yield (self.training_segment(segment, generator),)

    def end(self) -> Row:
        """Measure the validation text, keep the best weights, and say whether to average now."""
        sums = evaluate_columns(self._evaluated, self.valid, self.config.bptt)
        row = self.figures("valid", sums.tolist())
        if all(row["valid_loss"] < loss for loss in self.valid_losses):
            self.best = self._weights()
        if stalled(self.valid_losses, row["valid_loss"], self.config.patience):
            self.averaging = True
        self.valid_losses.append(row["valid_loss"])
        return row | {"averaged": self.averaged_steps > 0}

    @property
    def _evaluated(self) -> LanguageModel:
        """Return the average where there is one, else the network."""
        return self.average if self.averaged_steps else self.net

    def _weights(self) -> dict[str, Tensor]:
        """Return a copy of the weights that are evaluated now."""
        return {n: value.detach().clone() for n, value in self._evaluated.named_parameters()}

    def data_line(self, steps: str) -> str:
        """Say what is learnt from."""
        return (
            f"{self.train.numel():,} training words, {self.valid.numel():,} for validation, "
            f"vocabulary of {self.net.vocabulary:,}, about {steps} an epoch on {self.device}"
        )

    def take_best(self) -> None:
        """Give the network the weights with the lowest validation loss."""
        self.net.load_state_dict(self.best, strict=False)  # the tied matrix stands there once

    @classmethod
    def write_weights(cls, path: Path, config: RecurrentRetrainConfig, content: Row) -> None:
        """Write the weights of a checkpoint that have the lowest validation loss."""
        best = content["state"]["best"]
        tensors = {**best, "decoder.weight": best["encoder.weight"]}  # tied; here once, there twice
        save_weights(tensors, config.cell, path / WEIGHTS, content.get("data"))

    def result(self, history: Sequence[Row]) -> Row:
        """Test the weights with the lowest validation loss, once, and keep them in the folder."""
        corpus, words = self.corpus, len(self.corpus.words)
        self.take_best()
        file = Path(str(self.folder)) / WEIGHTS
        save_weights(self.net, self.config.cell, file, self.description)
        columns = batchify(corpus.test, 1).to(self.device)
        sums = evaluate_columns(self.net, columns, self.config.bptt).tolist()
        row: Row = {"genotype": self.config.cell.to_dict(), **self.figures("test", sums)}
        return row | {
            "best_valid_perplexity": min(row["valid_perplexity"] for row in history),
            "unigram_test_perplexity": unigram_perplexity(corpus.train, corpus.test[1:], words),
            "test_words": len(corpus.test) - 1,
            "parameters": count_parameters(self.net),
        }


def retrain(config: RecurrentRetrainConfig, on_epoch: OnEpoch = None) -> RecurrentRetrainResult:
    """Train and test as `darts_lib.retrain.retrain` does, on text.

    The weights with the lowest validation loss are tested, once, after the last epoch, in one
    column: each word is predicted from all before it.
    """
    return run_in_folder(config, RecurrentRetraining, RecurrentGenotype, on_epoch)


def load_network(path: Path) -> LanguageModel:
    """Return the trained language model of a finished run's folder, on the CPU."""
    file, tensors = path / WEIGHTS, read_run(path)
    encoder = tensors.get("encoder.weight")
    if encoder is None or encoder.dim() != 2:
        raise SettingsError(f"{file} holds no language model: it lacks the matrix encoder.weight.")
    genotype = RecurrentGenotype.from_dict(read_json(path / "result.json").get("genotype"))
    build = partial(derived_network, genotype, encoder.shape[1], len(encoder))
    with torch.device("meta"):  # a file does not decide how much memory is taken
        check_fit(build(), tensors, file)
    net = build()
    load_weights(net, tensors, file)
    return net


def stalled(losses: Sequence[float], newest: float, patience: int) -> bool:
    """Say whether `newest` is worse than the best of `losses` without their last `patience`.

    The non-monotone rule: one bad epoch is no sign, since SGD's loss goes up and down.
    """
    return len(losses) > patience and newest > min(losses[:-patience])
