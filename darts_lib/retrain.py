"""Retraining: a derived network from scratch into a run folder, tested once at the end."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from darts_lib.cost.complexity import count_parameters, multiply_adds
from darts_lib.cost.step_cost import trace
from darts_lib.data.images import a_class
from darts_lib.engine.batches import epoch_batches
from darts_lib.engine.command_line import run_from_file
from darts_lib.engine.epochs import run_epochs
from darts_lib.engine.folder import Progress, RunFolder
from darts_lib.engine.opening import opened, stored_config, this_machine
from darts_lib.engine.optimisers import chance_warning
from darts_lib.engine.progress import counted, duration
from darts_lib.engine.ranks import Ranks
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.run_files import Row, read_history, read_json
from darts_lib.engine.settings import RunConfig
from darts_lib.formats.weight_files import WEIGHTS, load_weights, read_weights, save_weights
from darts_lib.genotype import Genotype
from darts_lib.retrain_epoch import (
    RetrainEpoch,
    Retraining,
    errors_line,
    evaluate,
    judging_images,
)
from darts_lib.retrain_step import RetrainConfig, build_network

__all__ = ["RetrainConfig", "RetrainResult", "evaluate", "evaluate_run", "retrain"]

Config = TypeVar("Config", bound=RetrainConfig)

PRINTED = ("train_loss", "train_accuracy", "learning_rate", "drop_path", "seconds")


@dataclass(frozen=True)
class RetrainResult:
    """A finished retraining, read from its folder; accuracies are fractions of 1."""

    path: Path
    genotype: Genotype
    history: list[Row]
    figures: dict[str, Any]

    @property
    def test_accuracy(self) -> float:
        """Return the accuracy on the test images after the last epoch: the result."""
        return float(self.figures["test_accuracy"])


def retrain(config: RetrainConfig, on_epoch: Callable[[Row], None] | None = None) -> RetrainResult:
    """Train and test, or go on with a run that was stopped, or read a finished one back.

    The test images are read once, after the last epoch: no epoch is chosen by them. Raises
    `SettingsError` for settings or data that cannot be used.
    """
    return retrain_in_folder(config, Retraining, on_epoch)


def retrain_in_folder(
    config: Config,
    start: Callable[[Config, Path], RetrainEpoch],
    on_epoch: Callable[[Row], None] | None,
) -> RetrainResult:
    """Do what `retrain` says, with what `start` builds."""
    with opened(config) as folder:
        if folder.result() is None:
            _run(start(config, folder.path), folder, on_epoch)
        else:
            print(f"finished already; read back from {folder.path}")
        figures = read_json(folder.path / "result.json")
        return RetrainResult(folder.path, config.cell, read_history(folder.path), figures)


def _run(run: RetrainEpoch, folder: RunFolder, on_epoch: Callable[[Row], None] | None) -> None:
    config = run.config
    describe(run)
    progress = run_epochs(run, folder, config.epochs, PRINTED, on_epoch)
    for warning in chance_warning(progress.history, len(run.train.classes)):
        print(f"warning: {warning}")
    if folder.ranks.first:
        save_weights(run.net, config.cell, folder.path / WEIGHTS)
    folder.finish(_test(run, progress))


def _test(run: RetrainEpoch, progress: Progress) -> Row:
    config, found = run.config, run.test()
    shape = (run.train.channels, *run.train.size)
    return {
        "genotype": config.cell.to_dict(),
        "test_accuracy": found["top1"],
        "test_top5": found["top5"],
        "test_loss": found["loss"],
        "test_images": int(found["images"]),
        "classes": len(run.train.classes),
        "tested_on": "held-out training images" if config.holdout else "test images",
        "parameters": count_parameters(run.net, without="auxiliary_head"),
        "parameters_with_auxiliary": count_parameters(run.net),
        "multiply_adds": multiply_adds(run.net, shape),
        "hours": sum(row["seconds"] for row in progress.history) / 3600,
    }


def evaluate_run(path: Path, config: RunConfig | None = None) -> dict[str, float]:
    """Test the saved network of a finished run again; the figures are those of its result.

    `config` may give another `data_root` or `device`; the rest comes from the run folder.
    """
    file = path / WEIGHTS
    if not file.is_file():
        raise SettingsError(f"{path} holds no {WEIGHTS}; finish its retraining first.")
    own = stored_config(path, RetrainConfig, **this_machine(config))
    test = judging_images(own)
    device = own.open_device()
    net = build_network(own, len(test.classes), test.channels)
    load_weights(net, read_weights(file).tensors, file)
    return evaluate(net.to(device), test.to(device), own.batch_size)


def describe(run: RetrainEpoch) -> None:
    """Print the resolved settings and what they will cost, before the first step."""
    config, images = run.config, run.train
    print(config.line)
    steps = len(epoch_batches(len(images), config.batch_size, None)[: config.max_steps or None])
    cost = trace(run, _a_step)
    step = run.seconds_with_batch(cost.seconds(run.device, run.fast.graph))
    seconds = step * steps * config.epochs
    madds = multiply_adds(run.net, (images.channels, *images.size))
    balance = a_class(images.labels, len(images.classes))
    print(
        f"{len(images)} training images ({balance}), {counted(steps, 'step')} an epoch on "
        f"{run.device}, {run.fast}"
    )
    print(
        f"network: {count_parameters(run.net, without='auxiliary_head'):,} weights "
        f"({count_parameters(run.net):,} with the auxiliary head), {madds / 1e6:,.1f} M multiply-"
        f"adds an image; a step adds about {cost.memory(run.device) / 2**20:,.0f} MiB (less with "
        f"{run.LESS_MEMORY}); about {duration(seconds)} for {counted(config.epochs, 'epoch')}"
    )


def _a_step(run: RetrainEpoch) -> None:
    """Take the step whose cost is told; on fake pictures, so only their shape counts."""
    count = min(run.config.batch_size, len(run.train)) // run.ranks.count
    run.ranks = Ranks()  # of the copy that is traced: what is fake cannot be sent
    images = torch.zeros(count, run.train.channels, *run.train.size, device=run.device)
    run.eager_step(images, torch.zeros(count, dtype=torch.int64, device=run.device))


def summary(result: RetrainResult) -> str:
    """Say what a retraining has come to, and where its network is."""
    figures = result.figures
    top1, top5 = 1 - figures["test_accuracy"], 1 - figures["test_top5"]
    errors = errors_line(top1, top5, figures.get("classes", 10))  # of a run from before: 10
    return (
        f"cell: {result.genotype}\n"
        f"{errors} on {figures['test_images']} {figures['tested_on']}\n"
        f"weights, with their cell: {result.path / WEIGHTS}"
    )


if __name__ == "__main__":
    run_from_file(RetrainConfig, retrain, summary)
