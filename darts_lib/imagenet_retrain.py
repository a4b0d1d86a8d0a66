"""Retraining on ImageNet or a folder like it: the recipe, and the run.

    python -m darts_lib.imagenet_retrain CONFIG.json

Steps, epochs, run folder and resume are those of `darts_lib.retrain`; the network, its pictures and
the settings differ. ImageNet's own test labels are not public, so its `val` pictures are the test
set here: they are read once, after the last epoch, and no epoch is chosen by them.
"""

import contextlib
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from darts_lib.data.imagenet_data import Reader, find_pictures, read_batches
from darts_lib.data.images import Batch
from darts_lib.engine.batches import epoch_batches
from darts_lib.engine.command_line import run_from_file
from darts_lib.engine.places import data_root
from darts_lib.engine.progress import live
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.run_files import Row
from darts_lib.engine.settings import RunConfig
from darts_lib.imagenet_network import ImageNetNetwork
from darts_lib.network import CellStack
from darts_lib.retrain import RetrainResult, retrain_in_folder, summary
from darts_lib.retrain_epoch import RetrainEpoch, tested
from darts_lib.retrain_step import RetrainConfig

TIMED = 8
"""Pictures that are read to tell how long a batch takes."""


class ImageNetRetrainConfig(RetrainConfig):
    """Settings of a retraining on ImageNet. The defaults are the paper's (section 3.2, its code).

    `data_root` is the folder with `train` and `val`, `imagenet` in the project's data folder if
    empty. `workers` processes read the pictures, 0 reads them in between steps; the result is the
    same to the bit. There is no cutout, and no holdout: cells are chosen on small images. The
    `laptop` scale is for a thousand pictures or so.
    """

    KIND = "imagenet"
    LAPTOP: ClassVar[dict[str, Any]] = {
        "image_size": 64,
        "channels": 16,
        "layers": 5,
        "epochs": 8,
        "threads": 1,
        "batch_size": 32,
        "learning_rate": 0.01,  # 56 steps leave no time to come back from a step too far
        "workers": 0,
    }
    NO_EFFECT_ON_RESULT: ClassVar[frozenset[str]] = RunConfig.NO_EFFECT_ON_RESULT | {"workers"}

    dataset: Literal["folder"] = "folder"
    image_size: int = Field(224, ge=64, le=10_000)
    epochs: int = Field(250, ge=1)
    channels: int = Field(48, ge=2, le=10_000, multiple_of=2)
    layers: int = Field(14, ge=1, le=1000)
    batch_size: int = Field(128, ge=2)
    learning_rate: float = Field(0.1, gt=0)
    schedule: Literal["cosine", "exponential"] = "exponential"
    weight_decay: float = Field(3e-5, ge=0)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    drop_path: float = Field(0.0, ge=0, lt=1)
    cutout: Literal[0] = 0
    holdout: float = Field(0.0, ge=0, le=0)
    workers: int = Field(8, ge=0, le=1024)

    @property
    def data_folder(self) -> Path:
        """Return the folder that has `train` and `val`."""
        return super().data_folder if self.data_root else data_root() / "imagenet"


def build_network(config: ImageNetRetrainConfig, classes: int) -> ImageNetNetwork:
    """Return the untrained network of a configuration, in channels_last: the fast layout."""
    net = ImageNetNetwork(config.cell, config.channels, config.layers, classes, config.auxiliary)
    return net.to(memory_format=torch.channels_last)


class ImageNetRetraining(RetrainEpoch):
    """A retraining whose pictures are read from files, batch by batch."""

    config: ImageNetRetrainConfig

    def __init__(self, config: ImageNetRetrainConfig, folder: object = "the run folder") -> None:
        device = config.open_device()
        self.files, self.held_out = find_pictures(
            config.data_folder, config.image_size, config.max_images
        )
        super().__init__(config, self.files, device, folder)

    def build(self, classes: int, in_channels: int) -> CellStack:
        """Return the untrained network, which always has three input channels."""
        return build_network(self.config, classes)

    def batches(self, generator: torch.Generator) -> Generator[Batch]:
        """Yield an epoch's augmented batches; closing it ends the worker processes."""
        whole, seed = self.index_batches(generator), generator.initial_seed()
        indices = [self.ranks.part((batch, batch))[0] for batch in whole]
        reading = read_batches(self.files, indices, self.config.workers, self.device, seed)
        with contextlib.closing(reading):
            for _, batch in zip(live(indices), reading, strict=True):
                yield batch

    def test(self) -> dict[str, float]:
        """Return `tested`'s figures on the `val` pictures."""
        size = min(self.config.batch_size, len(self.held_out))
        indices = self.ranks.in_turn(epoch_batches(len(self.held_out), max(2, size), None))
        reading = read_batches(self.held_out, indices, self.config.workers, self.device)
        with contextlib.closing(reading):
            return tested(self.net, reading)

    def seconds_with_batch(self, step: float) -> float:
        """Add the seconds of reading a batch, or take the longer of the two if workers read."""
        count = min(TIMED, len(self.files))
        started = time.perf_counter()
        found = Reader(self.files, 0)[torch.arange(count)]
        if isinstance(found, SettingsError):
            raise found
        reading = (time.perf_counter() - started) / count * self.config.batch_size
        workers = self.config.workers
        return max(step, reading / workers) if workers else step + reading


def retrain(
    config: ImageNetRetrainConfig, on_epoch: Callable[[Row], None] | None = None
) -> RetrainResult:
    """Train and test, or go on with a run that was stopped, or read a finished one back.

    Raises `SettingsError` for settings or data that cannot be used.
    """
    return retrain_in_folder(config, ImageNetRetraining, on_epoch)


if __name__ == "__main__":
    run_from_file(ImageNetRetrainConfig, retrain, summary)
