"""Retraining a recurrent cell: a language model from scratch into a run folder, tested once."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from darts_lib.cost.complexity import count_parameters
from darts_lib.data.text import batchify, segments, unigram_perplexity
from darts_lib.engine.epochs import run_epochs
from darts_lib.engine.files import write_whole
from darts_lib.engine.folder import Progress, RunFolder
from darts_lib.engine.opening import opened
from darts_lib.engine.progress import counted
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.run_files import Row, read_history, read_json
from darts_lib.formats.weight_files import WEIGHTS, load_weights
from darts_lib.recurrent.cost import cost_line
from darts_lib.recurrent.genotype import RecurrentGenotype
from darts_lib.recurrent.network import LanguageModel, derived_network
from darts_lib.recurrent.retrain_step import RecurrentRetrainConfig, RecurrentRetraining
from darts_lib.recurrent.search_epoch import evaluate_columns, figures

__all__ = ["RecurrentRetrainConfig", "RecurrentRetrainResult", "load_network", "retrain"]

PRINTED = ("train_perplexity", "valid_perplexity", "averaged", "seconds")


@dataclass(frozen=True)
class RecurrentRetrainResult:
    """A finished retraining, read from its folder."""

    path: Path
    genotype: RecurrentGenotype
    history: list[Row]
    figures: dict[str, Any]

    @property
    def test_perplexity(self) -> float:
        """Return the perplexity on the test text of the best weights: the result."""
        return float(self.figures["test_perplexity"])


def retrain(
    config: RecurrentRetrainConfig, on_epoch: Callable[[Row], None] | None = None
) -> RecurrentRetrainResult:
    """Train and test, or go on with a run that was stopped, or read a finished one back.

    The weights with the lowest validation loss are tested, once, after the last epoch, in one
    column: each word is predicted from all before it. Raises `SettingsError` for settings or text
    that cannot be used, and `FloatingPointError` when the loss is no longer a number.
    """
    with opened(config) as folder:
        if folder.result() is None:
            _run(config, folder, on_epoch)
        else:
            print(f"finished already; read back from {folder.path}")
        found = read_json(folder.path / "result.json")
        return RecurrentRetrainResult(folder.path, config.cell, read_history(folder.path), found)


def _run(
    config: RecurrentRetrainConfig, folder: RunFolder, on_epoch: Callable[[Row], None] | None
) -> None:
    run = RecurrentRetraining(config, folder.path)
    describe(run)
    progress = run_epochs(run, folder, config.epochs, PRINTED, on_epoch)
    run.take_best()
    save_network(run.net, config.cell, folder.path / WEIGHTS)
    folder.finish(_test(run, progress))


def _test(run: RecurrentRetraining, progress: Progress) -> Row:
    corpus, words = run.corpus, len(run.corpus.words)
    columns = batchify(corpus.test, 1).to(run.device)
    row: Row = {"genotype": run.config.cell.to_dict()}
    row |= figures("test", evaluate_columns(run.net, columns, run.config.bptt))
    return row | {
        "best_valid_perplexity": min(row["valid_perplexity"] for row in progress.history),
        "unigram_test_perplexity": unigram_perplexity(corpus.train, corpus.test[1:], words),
        "test_words": len(corpus.test) - 1,
        "parameters": count_parameters(run.net),
        "hours": sum(row["seconds"] for row in progress.history) / 3600,
    }


def save_network(net: LanguageModel, genotype: RecurrentGenotype, path: Path) -> None:
    """Write a language model as safetensors with its genotype, under the original's names.

    The tied matrix stands there twice, as in the original's files.
    """
    tensors = {name: value.cpu().clone() for name, value in net.state_dict().items()}
    write_whole(path, save(tensors, {"genotype": str(genotype)}))


def load_network(path: Path) -> LanguageModel:
    """Return the trained language model of a finished run's folder, on the CPU.

    Raises `SettingsError` for a folder without weights, and for damaged ones.
    """
    file = path / WEIGHTS
    if not file.is_file():
        raise SettingsError(f"{path} holds no {WEIGHTS}; finish its retraining first.")
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise SettingsError(f"{file} is damaged ({error}); finish the retraining again.") from error
    encoder = tensors.get("encoder.weight")
    if encoder is None or encoder.dim() != 2:
        raise SettingsError(f"{file} holds no language model: it lacks the matrix encoder.weight.")
    genotype = RecurrentGenotype.from_dict(read_json(path / "result.json").get("genotype"))
    vocabulary, width = encoder.shape
    net = derived_network(genotype, width, vocabulary)
    load_weights(net, tensors, file)
    return net


def describe(run: RecurrentRetraining) -> None:
    """Print the resolved settings and what they will cost, before the first step."""
    config = run.config
    print(config.line)
    steps = len(segments(len(run.train), config.bptt)[: config.max_steps or None])
    print(
        f"{run.train.numel():,} training words, {run.valid.numel():,} for validation, vocabulary "
        f"of {len(run.corpus.words):,}, about {counted(steps, 'step')} an epoch on {run.device}"
    )
    cost = cost_line(run, a_step, steps)
    print(f"network: {count_parameters(run.net):,} weights; {cost}")


def a_step(run: RecurrentRetraining, words: Tensor) -> None:
    """Take the step whose cost is told; `words` are `(time, batch)`."""
    run.step((words, words))
