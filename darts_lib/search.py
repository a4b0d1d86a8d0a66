"""Searching: epoch after epoch into a run folder, said before, during and after."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from darts_lib.cost.complexity import count_parameters
from darts_lib.cost.step_cost import trace
from darts_lib.data.images import a_class, clean_batch
from darts_lib.engine.batches import epoch_batches
from darts_lib.engine.command_line import run_from_file
from darts_lib.engine.epochs import run_epochs
from darts_lib.engine.files import unpack
from darts_lib.engine.folder import Progress, RunFolder
from darts_lib.engine.opening import opened, stored_config, this_machine
from darts_lib.engine.optimisers import chance_warning, restore
from darts_lib.engine.progress import counted, duration
from darts_lib.engine.ranks import Ranks
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.run_files import Row, last_row, read_alphas, read_history
from darts_lib.engine.settings import RunConfig
from darts_lib.genotype import Genotype
from darts_lib.operations import build_operation
from darts_lib.search_epoch import Search
from darts_lib.search_settings import SearchConfig
from darts_lib.search_space import KINDS

__all__ = ["SearchConfig", "SearchResult", "load_search", "read_search", "search", "warnings_of"]

COLLAPSE = 3
"""So many skip connections among a normal cell's eight edges are a sign of collapse."""
LITTLE = 0.1
"""Alphas that move less leave every softmax weight, 1/8 at the start, between 0.10 and 0.15."""

PRINTED = (
    *("train_loss", "valid_loss", "valid_accuracy"),
    *("entropy_normal", "alpha_change", "skips", "seconds"),
)


@dataclass(frozen=True)
class SearchResult:
    """A finished search, read from its folder; `alphas` are `(epochs + 1, edges, primitives)`."""

    path: Path
    genotype: Genotype
    history: list[Row]
    alphas: dict[str, Tensor]


def search(config: SearchConfig, on_epoch: Callable[[Row], None] | None = None) -> SearchResult:
    """Search, or go on with a search that was stopped, or read a finished one back.

    Raises `SettingsError` for settings or data that cannot be used, and `FloatingPointError` when
    the loss is no longer a number. `on_epoch` is called with the row of each finished epoch.
    """
    with opened(config) as folder:
        if folder.result() is None:
            _run(config, folder, on_epoch)
        else:
            print(f"finished already; read back from {folder.path}")
        return read_search(folder.path)


def read_search(path: Path) -> SearchResult:
    """Read a search folder: the genotype after its last finished epoch, history and alphas."""
    history = read_history(path)
    genotype = Genotype.from_dict(last_row(path, history).get("genotype"))
    return SearchResult(path, genotype, history, read_alphas(path))


def load_search(path: Path, config: RunConfig | None = None) -> Search:
    """Rebuild a search as it stood after its last finished epoch: data, supernet and alphas.

    `config` may give another `data_root` or `device`; the rest comes from the run folder.
    """
    if not (path / "checkpoint.pt").is_file():
        raise SettingsError(f"{path} holds no checkpoint.pt; run chapter 03's search there first.")
    run = Search(stored_config(path, SearchConfig, **this_machine(config)))
    state: Any = unpack(path / "checkpoint.pt")["state"]
    restore(run, state, path)
    return run


def _run(config: SearchConfig, folder: RunFolder, on_epoch: Callable[[Row], None] | None) -> None:
    run = Search(config, folder.path)
    describe(run)
    progress = run_epochs(run, folder, config.epochs, PRINTED, on_epoch, run.alphas)
    found = Genotype.from_dict(progress.history[-1]["genotype"])
    for warning in warnings_of(progress.history, len(run.train.classes)) + poor_cell(found):
        print(f"warning: {warning}")
    folder.finish(_result(run, progress))


def _result(run: Search, progress: Progress) -> Row:
    last = progress.history[-1]
    return {
        "genotype": last["genotype"],
        "route": run.config.chosen_route,
        "parameters": count_parameters(run.net),
        "supernet_valid_accuracy": last["valid_accuracy"],
        "hours": sum(row["seconds"] for row in progress.history) / 3600,
    }


def describe(run: Search) -> None:
    """Print the resolved settings and what they will cost, before the first step."""
    config = run.config
    print(config.line)
    if config.route and "order" in config.model_fields_set:
        print(f"route={config.route} is given, so order={config.order} is ignored.")
    steps = len(epoch_batches(len(run.train), config.batch_size, None)[: config.max_steps or None])
    cost = trace(run, _a_step)
    seconds = cost.seconds(run.device, run.fast.graph) * steps * config.epochs
    balance = a_class(run.train.labels, len(run.train.classes))
    print(
        f"{len(run.train)} images for the weights ({balance}), {len(run.valid)} for the alphas, "
        f"{counted(steps, 'step')} an epoch on {run.device}, {run.fast}"
    )
    print(
        f"supernet: {count_parameters(run.net):,} weights; a step adds about "
        f"{cost.memory(run.device) / 2**20:,.0f} MiB (less with {run.LESS_MEMORY}); "
        f"about {duration(seconds)} for {counted(config.epochs, 'epoch')}"
    )
    for warning in reach_warning(config, steps) + missing_cells(run):
        print(f"warning: {warning}")


def _a_step(run: Search) -> None:
    """Take the step whose cost is told; on fake pictures, so only their shape counts."""
    count = min(run.config.batch_size, len(run.train)) // run.ranks.count
    run.ranks = Ranks()  # of the copy that is traced: what is fake cannot be sent
    indices = torch.arange(count)
    train, valid = clean_batch(run.train, indices), clean_batch(run.valid, indices)
    run.eager_step(*train, *valid)


def reach_warning(config: SearchConfig, steps: int) -> list[str]:
    """Warn if the alphas cannot get far in so many steps an epoch; Adam moves by about its rate."""
    reach = steps * config.epochs * config.alpha_learning_rate
    if reach >= LITTLE:
        return []
    return [
        f"{steps * config.epochs} steps of about {config.alpha_learning_rate:g} move each alpha by "
        f"{reach:.2g} at most, so the cell found will be noise: raise alpha_learning_rate or "
        "epochs, or lower batch_size."
    ]


def missing_cells(run: Search) -> list[str]:
    """Warn if the supernet has no cell of some kind: its alphas have no gradient."""
    missing = [kind for kind in KINDS if kind not in run.net.kinds]
    return [
        f"with layers={run.config.layers} there is no {kind} cell, so no loss depends on its "
        "alphas and the one found is noise; use layers=3 or more."
        for kind in missing
    ]


def warnings_of(history: Sequence[Row], classes: int) -> list[str]:
    """Say what looks wrong in a history: collapse, frozen alphas, a loss at chance level."""
    warnings = chance_warning(history, classes)
    skips = history[-1]["skips"]
    if skips >= COLLAPSE:
        warnings.append(
            f"{skips} of the normal cell's edges are skip connections, a known weakness of DARTS, "
            "not a fault of this run: search for fewer epochs, try other seeds, or set max_skip."
        )
    if all(row["alpha_change"] < 1e-6 for row in history):
        warnings.append(
            "the alphas never moved, so the cell found is noise; check alpha_learning_rate."
        )
    return warnings


def poor_cell(genotype: Genotype) -> list[str]:
    """Say so if no edge of the normal cell has weights: a cell of pools and skip connections."""
    with torch.device("meta"):  # draws nothing from the generator
        operations = [build_operation(name, 2, 1, affine=True) for name, _ in genotype.normal]
    if any(count_parameters(operation) for operation in operations):
        return []
    return [
        "no edge of the normal cell has weights, only pools and skip connections, so the network "
        "can learn little: search with other seeds, for another number of epochs, or with max_skip."
    ]


def summary(result: SearchResult) -> str:
    """Say what a search has found, and how to train it."""
    return (
        f"cell: {result.genotype}\n"
        f"its supernet: {result.history[-1]['valid_accuracy']:.1%} of the validation images right\n"
        "next: python -m darts_lib.retrain CONFIG.json, where CONFIG.json holds "
        f'{{"genotype": "{result.path}"}}, or chapter 05 with -p genotype {result.path}'
    )


if __name__ == "__main__":
    run_from_file(SearchConfig, search, summary)
