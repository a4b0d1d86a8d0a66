"""Transfer: a cell found on small images, trained on ImageNet or a folder like it.

    python -m darts_lib.imagenet_retrain CONFIG.json

Steps, epochs, run folder and resume are those of `darts_lib.retrain`; the network, its pictures and
the settings differ. ImageNet's own test labels are not public, so its `val` pictures are the test
set here: they are read once, after the last epoch, and no epoch is chosen by them.
"""

import contextlib
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from darts_lib.data.imagenet_data import (
    check_shared_memory,
    find_pictures,
    fingerprint,
    read_batches,
    workers_told,
)
from darts_lib.data.images import Batch
from darts_lib.engine.batches import epoch_batches
from darts_lib.engine.folder import Row
from darts_lib.engine.opening import default_folder
from darts_lib.engine.progress import live
from darts_lib.engine.run import OnEpoch, run_in_folder
from darts_lib.engine.settings import RunConfig, data_root, runs_root
from darts_lib.formats.cell_choice import find_genotype
from darts_lib.genotype import Genotype
from darts_lib.network import CellStack, ImageNetNetwork
from darts_lib.retrain import RetrainConfig, Retraining, RetrainResult, tested
from darts_lib.search import SearchConfig


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

    def fingerprint(self) -> Row:
        """Return that of the files' names, and the sizes of some."""
        return fingerprint(self.data_folder)

    def network(self, classes: int, in_channels: int = 3) -> CellStack:
        """Return the untrained network, which always has three input channels."""
        net = ImageNetNetwork(self.cell, self.channels, self.layers, classes, self.auxiliary)
        return net.to(memory_format=torch.channels_last)


class ImageNetRetraining(Retraining):
    """A retraining whose pictures are read from files, batch by batch."""

    CONFIG = ImageNetRetrainConfig
    config: ImageNetRetrainConfig

    def pictures(self) -> Any:
        """Return the files of the `train` pictures; those of `val` are kept for the test."""
        folder, size = self.config.data_folder, self.config.image_size
        files, self.held_out = find_pictures(folder, size, self.config.max_images)
        for each, ranks in ((files, self.ranks.count), (self.held_out, 1)):
            batches = epoch_batches(len(each), self.config.batch_size, None)
            lengths = [len(batch) // ranks for batch in batches]
            check_shared_memory(each.size, lengths, self.config.workers)
        return files

    def epoch(self, epoch: int) -> Row:
        """Run an epoch; a worker that dies ends it in one line."""
        with workers_told(self.config.workers):
            return super().epoch(epoch)

    def batches(self, generator: torch.Generator) -> Generator[tuple[Batch]]:
        """Yield an epoch's augmented batches; closing it ends the worker processes."""
        whole, seed = self.index_batches(generator), generator.initial_seed()
        indices = [self.ranks.part((batch, batch))[0] for batch in whole]
        reading = read_batches(self.train, indices, self.config.workers, self.device, seed)
        with contextlib.closing(reading):
            for _, batch in zip(live(indices), reading, strict=True):
                yield (batch,)

    def advice(self) -> list[str]:
        """Return nothing: this form is made for large pictures."""
        return []

    def test(self) -> dict[str, float]:
        """Return `tested`'s figures on the `val` pictures."""
        batches = epoch_batches(len(self.held_out), self.config.batch_size, None)
        indices = self.ranks.in_turn(batches)
        reading = read_batches(self.held_out, indices, self.config.workers, self.device)
        with workers_told(self.config.workers), contextlib.closing(reading):
            return tested(self.net, reading)

    def trial_batches(self) -> tuple[Batch]:
        """Read a batch in this process, and note how long that took."""
        started, count = time.perf_counter(), self.config.batch_size // self.ranks.count
        reading = read_batches(self.train, [torch.arange(count)], 0, self.device, self.config.seed)
        batch = next(reading)
        self.reading = time.perf_counter() - started
        return (batch,)

    def trial(self) -> tuple[float, int]:
        """Add the seconds of reading a batch, or take the longer of the two if workers read."""
        seconds, size = super().trial()
        workers = self.config.workers
        return max(seconds, self.reading / workers) if workers else seconds + self.reading, size


def retrain(config: ImageNetRetrainConfig, on_epoch: OnEpoch = None) -> RetrainResult:
    """Train and test as `darts_lib.retrain.retrain` does, on files."""
    return run_in_folder(config, ImageNetRetraining, Genotype, on_epoch)


def with_defaults(config: ImageNetRetrainConfig) -> ImageNetRetrainConfig:
    """Return the configuration with its empty names filled, and print the cell that was taken.

    An empty `genotype` becomes the cell of chapter 03's default search at this scale and seed, or
    the published DARTS_V2 if there is none; no search is made here. An empty `data_root` becomes
    the example pictures at laptop scale; at paper scale it stays `imagenet` in the data folder.
    """
    if not config.genotype:
        given = config.model_dump(include={"scale", "seed", "device"})
        folder = default_folder(SearchConfig.create(**given))
        name = str(folder) if (folder / "result.json").exists() else "DARTS_V2"
        print(f"the cell of {name}")
        cell = str(find_genotype(name, config.seed))
        config = config.model_copy(update={"genotype": cell})
    if not config.data_root and config.scale == "laptop":
        # scikit-learn takes a second to load, and only this needs it.
        from darts_lib.data.example_pictures import example_pictures

        return config.model_copy(update={"data_root": str(example_pictures(runs_root()))})
    return config
