"""Searching recurrent cells: epoch after epoch into a run folder, as `darts_lib.search`."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from darts_lib.cost.complexity import count_parameters
from darts_lib.data.text import segments
from darts_lib.engine.epochs import run_epochs
from darts_lib.engine.files import unpack
from darts_lib.engine.folder import Progress, RunFolder
from darts_lib.engine.opening import opened, stored_config, this_machine
from darts_lib.engine.optimisers import restore
from darts_lib.engine.progress import counted
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.run_files import Row, last_row, read_alphas, read_history
from darts_lib.engine.settings import RunConfig
from darts_lib.recurrent.cost import cost_line
from darts_lib.recurrent.genotype import RecurrentGenotype
from darts_lib.recurrent.search_epoch import RecurrentSearch
from darts_lib.recurrent.search_step import RecurrentSearchConfig

__all__ = ["RecurrentSearchConfig", "RecurrentSearchResult", "load_search", "read_search", "search"]

PRINTED = ("train_perplexity", "valid_perplexity", "entropy_recurrent", "alpha_change", "seconds")


@dataclass(frozen=True)
class RecurrentSearchResult:
    """A finished search, read from its folder; `alphas` are `(epochs + 1, edges, primitives)`."""

    path: Path
    genotype: RecurrentGenotype
    history: list[Row]
    alphas: dict[str, Tensor]


def search(
    config: RecurrentSearchConfig, on_epoch: Callable[[Row], None] | None = None
) -> RecurrentSearchResult:
    """Search, or go on with a search that was stopped, or read a finished one back.

    Raises `SettingsError` for settings or text that cannot be used, and `FloatingPointError` when
    the loss is no longer a number. `on_epoch` is called with the row of each finished epoch.
    """
    with opened(config) as folder:
        if folder.result() is None:
            _run(config, folder, on_epoch)
        else:
            print(f"finished already; read back from {folder.path}")
        return read_search(folder.path)


def read_search(path: Path) -> RecurrentSearchResult:
    """Read a search folder: the genotype after its last finished epoch, history and alphas."""
    history = read_history(path)
    genotype = RecurrentGenotype.from_dict(last_row(path, history).get("genotype"))
    return RecurrentSearchResult(path, genotype, history, read_alphas(path))


def load_search(path: Path, config: RunConfig | None = None) -> RecurrentSearch:
    """Rebuild a search as it stood after its last finished epoch: text, supernet and alphas.

    `config` may give another `data_root` or `device`; the rest comes from the run folder.
    """
    if not (path / "checkpoint.pt").is_file():
        raise SettingsError(f"{path} holds no checkpoint.pt; run chapter 06's search there first.")
    run = RecurrentSearch(stored_config(path, RecurrentSearchConfig, **this_machine(config)))
    state: Any = unpack(path / "checkpoint.pt")["state"]
    restore(run, state, path)
    return run


def _run(
    config: RecurrentSearchConfig, folder: RunFolder, on_epoch: Callable[[Row], None] | None
) -> None:
    run = RecurrentSearch(config, folder.path)
    describe(run)
    progress = run_epochs(run, folder, config.epochs, PRINTED, on_epoch, run.alphas)
    for warning in warnings_of(progress.history, len(run.words)):
        print(f"warning: {warning}")
    folder.finish(_result(run, progress))


def _result(run: RecurrentSearch, progress: Progress) -> Row:
    last = progress.history[-1]
    return {
        "genotype": last["genotype"],
        "route": run.config.chosen_route,
        "parameters": count_parameters(run.net),
        "supernet_valid_perplexity": last["valid_perplexity"],
        "hours": sum(row["seconds"] for row in progress.history) / 3600,
    }


def describe(run: RecurrentSearch) -> None:
    """Print the resolved settings and what they will cost, before the first step."""
    config = run.config
    print(config.line)
    if config.route and "order" in config.model_fields_set:
        print(f"route={config.route} is given, so order={config.order} is ignored.")
    steps = len(segments(len(run.train), config.bptt)[: config.max_steps or None])
    print(
        f"{run.train.numel():,} words for the weights, {run.valid.numel():,} for the alphas, "
        f"vocabulary of {len(run.words):,}, {counted(steps, 'step')} an epoch on {run.device}"
    )
    cost = cost_line(run, a_step, steps)
    print(f"supernet: {count_parameters(run.net):,} weights; {cost}")


def a_step(run: RecurrentSearch, words: Tensor) -> None:
    """Take the step whose cost is told; `words` are `(time, batch)`."""
    run.eager_step(words, words, words, words)


def warnings_of(history: Sequence[Row], words: int) -> list[str]:
    """Say what looks wrong in a history: frozen alphas, a loss at that of guessing."""
    warnings = []
    lowest = min(row["train_loss"] for row in history)
    if lowest > 0.98 * math.log(words):
        warnings.append(
            f"the training loss stayed at that of guessing, ln({words}) = {math.log(words):.3f}; "
            "train longer, or look at the learning rate and the text."
        )
    if all(row["alpha_change"] < 1e-6 for row in history):
        warnings.append(
            "the alphas never moved, so the cell found is noise; check alpha_learning_rate."
        )
    return warnings
