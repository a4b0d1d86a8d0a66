"""Retraining: a derived network from scratch into a run folder, tested once at the end."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from darts_lib.complexity import count_parameters, multiply_adds, saved_bytes, seconds_per_pass
from darts_lib.files import write_whole
from darts_lib.genotype import Genotype
from darts_lib.images import epoch_batches, load_images
from darts_lib.network import Network
from darts_lib.progress import EpochLine, duration
from darts_lib.retrain_epoch import RetrainConfig, Retraining, build_network, evaluate
from darts_lib.runs import Progress, Row, RunFolder, opened, read_history, read_json
from darts_lib.settings import RunConfig, SettingsError
from darts_lib.training import chance_warning, clean_batch, require_finite, restore

__all__ = ["RetrainConfig", "RetrainResult", "evaluate", "evaluate_run", "retrain"]

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
    with opened(config, "retrain") as folder:
        if folder.result() is None:
            _run(config, folder, on_epoch)
        else:
            print(f"finished already; read back from {folder.path}")
        figures = read_json(folder.path / "result.json")
        return RetrainResult(folder.path, config.cell, read_history(folder.path), figures)


def _run(config: RetrainConfig, folder: RunFolder, on_epoch: Callable[[Row], None] | None) -> None:
    run, progress = Retraining(config), Progress()
    describe(run)
    stored = folder.load()
    if stored:
        restore(run, stored[0], folder.path)
        progress = stored[1]
    line = EpochLine(config.epochs, progress.epochs)
    while progress.epochs < config.epochs:
        row = run.epoch(progress.epochs)
        require_finite(row["train_loss"], row["epoch"], row["learning_rate"], folder.path)
        progress.history.append(row)
        folder.save(run.state(), progress)
        line({name: row[name] for name in PRINTED})
        if on_epoch:
            on_epoch(row)
    for warning in chance_warning(progress.history, len(run.train.classes)):
        print(f"warning: {warning}")
    _save_weights(run.net, folder.path)
    folder.finish(_test(run, progress))


def _test(run: Retraining, progress: Progress) -> Row:
    config, images = run.config, run.train
    test = load_images(config.dataset, config.data_folder, "test", config.image_size)
    found = evaluate(run.net, test.to(run.device), config.batch_size)
    shape = (images.channels, *images.size)
    return {
        "genotype": config.cell.to_dict(),
        "test_accuracy": found["top1"],
        "test_top5": found["top5"],
        "test_loss": found["loss"],
        "test_images": len(test),
        "parameters": count_parameters(run.net, without="auxiliary_head"),
        "parameters_with_auxiliary": count_parameters(run.net),
        "multiply_adds": multiply_adds(run.net, shape),
        "hours": sum(row["seconds"] for row in progress.history) / 3600,
    }


def _save_weights(net: Network, folder: Path) -> None:
    state = {name: value.cpu().contiguous() for name, value in net.state_dict().items()}
    write_whole(folder / "weights.safetensors", save(state))


def evaluate_run(path: Path, config: RunConfig | None = None) -> dict[str, float]:
    """Test the saved network of a finished run again; the figures are those of its result.

    `config` may give another `data_root` or `device`; the rest comes from the run folder.
    """
    if not (path / "weights.safetensors").is_file():
        raise SettingsError(f"{path} holds no weights.safetensors; finish its retraining first.")
    settings = dict(read_json(path / "config.json")["settings"])
    settings.pop("kind")
    places = config.model_dump(include={"data_root", "device"}) if config else {}
    own = RetrainConfig.create(**{**settings, **places})
    test = load_images(own.dataset, own.data_folder, "test", own.image_size)
    device = own.open_device()
    net = build_network(own, len(test.classes), test.channels)
    net.load_state_dict(load_file(path / "weights.safetensors"))
    return evaluate(net.to(device), test.to(device), own.batch_size)


def describe(run: Retraining) -> None:
    """Print the resolved settings and what they will cost, before the first step."""
    config, images = run.config, run.train
    print("  ".join(f"{name}={value}" for name, value in config.settings_that_matter().items()))
    batches = epoch_batches(len(images), config.batch_size, None)
    steps = len(batches[: config.max_steps or None])
    pictures, labels = clean_batch(images, batches[0])
    twin = copy.deepcopy(run.net)  # a pass in training mode moves the running statistics
    parameters = list(twin.parameters())

    def loss() -> torch.Tensor:
        logits, auxiliary = twin(pictures)
        return run.loss(logits, auxiliary, labels)

    seconds = seconds_per_pass(loss, parameters) * steps * config.epochs
    memory = saved_bytes(loss) + 3 * sum(p.numel() * p.element_size() for p in parameters)
    madds = multiply_adds(twin, (images.channels, *images.size))
    print(
        f"{len(images)} training images, {steps} steps an epoch on {run.device}; "
        f"network: {count_parameters(twin, without='auxiliary_head'):,} weights "
        f"({count_parameters(twin):,} with the auxiliary head), {madds / 1e6:,.1f} M multiply-adds "
        f"an image; about {memory / 2**20:,.0f} MiB at the peak; "
        f"about {duration(seconds)} for {config.epochs} epochs"
    )
