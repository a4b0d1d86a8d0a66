"""The settings of a retraining, and one epoch of it: the derived network learns from scratch."""

import time
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from darts_lib.cell_choice import find_genotype
from darts_lib.genotype import Genotype
from darts_lib.images import ImageSet, epoch_batches, load_images
from darts_lib.network import Network
from darts_lib.progress import live
from darts_lib.runs import Row
from darts_lib.settings import RunConfig, SettingsError, seed_epoch
from darts_lib.training import Batch, augmented_batch, clean_batch, cosine, figures


class RetrainConfig(RunConfig):
    """Settings of a retraining. The defaults are the paper's for CIFAR-10 (appendix A.1.2).

    `genotype` is anything `find_genotype` knows; it is stored as the cell's text, so that a run
    stays what it was when a file changes.
    """

    LAPTOP: ClassVar[dict[str, Any]] = {
        "dataset": "digits",
        "channels": 8,
        "layers": 4,
        "epochs": 8,
        "threads": 1,
        "batch_size": 64,
        "cutout": 0,
        "drop_path": 0.1,
    }

    genotype: str = "DARTS_V2"
    channels: int = Field(36, ge=2)
    layers: int = Field(20, ge=1)
    batch_size: int = Field(96, ge=2)
    learning_rate: float = Field(0.025, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(3e-4, ge=0)
    gradient_clip: float = Field(5.0, gt=0)
    auxiliary: bool = True
    auxiliary_weight: float = Field(0.4, ge=0)
    drop_path: float = Field(0.2, ge=0, lt=1)
    cutout: int = Field(16, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _name_to_cell(cls, given: dict[str, Any]) -> dict[str, Any]:
        name = str(given.get("genotype", "DARTS_V2"))
        if not name:  # chapter 05 fills it with the cell that chapter 03 found
            return given
        seed = given.get("seed", 0)
        cell = find_genotype(name, seed if isinstance(seed, int) else 0)
        return {**given, "genotype": str(cell)}

    @property
    def cell(self) -> Genotype:
        """Return the genotype itself; an empty name has none and is refused."""
        if not self.genotype:
            raise SettingsError("genotype is empty; name a cell, for example -p genotype DARTS_V2.")
        return Genotype.from_text(self.genotype)


def build_network(config: RetrainConfig, classes: int, in_channels: int) -> Network:
    """Return the untrained network of a configuration, for images of `in_channels` channels."""
    return Network(
        config.cell, config.channels, config.layers, classes, in_channels, config.auxiliary
    )


class Retraining:
    """The state of a retraining between two epochs, and the epoch itself."""

    def __init__(self, config: RetrainConfig) -> None:
        self.config, self.device = config, config.open_device()
        images = load_images(
            config.dataset, config.data_folder, "train", config.image_size, config.max_images
        )
        self.train = images.to(self.device)
        seed_epoch(config.seed, -1, self.device)
        net = build_network(config, len(images.classes), images.channels)
        self.net = net.to(self.device)
        self.optimiser = torch.optim.SGD(
            self.net.parameters(),
            config.learning_rate,
            config.momentum,
            weight_decay=config.weight_decay,
        )

    def epoch(self, epoch: int) -> Row:
        """Run epoch number `epoch` (from 0) and return its row of the history."""
        started, config = time.perf_counter(), self.config
        generator = seed_epoch(config.seed, epoch, self.device)
        rate = cosine(epoch, config.epochs, config.learning_rate, 0.0)
        self.optimiser.param_groups[0]["lr"] = rate
        # Grows from 0 and never quite reaches the full probability, as in the original.
        self.net.drop_path = config.drop_path * epoch / config.epochs
        self.net.train()
        total = torch.zeros(3, device=self.device)
        for batch in self._batches(generator):
            total += self.step(batch)
        loss, correct, count = total.tolist()
        return {
            "epoch": epoch + 1,
            "learning_rate": rate,
            "drop_path": self.net.drop_path,
            "train_loss": loss / count,
            "train_accuracy": correct / count,
            "seconds": time.perf_counter() - started,
        }

    def _batches(self, generator: torch.Generator) -> Iterator[Batch]:
        config, order = self.config, torch.Generator().manual_seed(generator.initial_seed())
        batches = epoch_batches(len(self.train), config.batch_size, order)
        for indices in live(batches[: config.max_steps or None]):
            yield augmented_batch(self.train, indices, config.cutout, generator)

    def step(self, batch: Batch) -> Tensor:
        """Take one step; return (summed loss, correct, count) of the batch, on the device."""
        images, labels = batch
        self.optimiser.zero_grad()
        logits, auxiliary = self.net(images)
        torch.autograd.backward(self.loss(logits, auxiliary, labels))
        nn.utils.clip_grad_norm_(self.net.parameters(), self.config.gradient_clip)
        self.optimiser.step()
        return figures(logits.detach(), labels)

    def loss(self, logits: Tensor, auxiliary: Tensor | None, labels: Tensor) -> Tensor:
        """Return the cross-entropy, plus the auxiliary head's with its weight."""
        loss = nn.functional.cross_entropy(logits, labels)
        if auxiliary is not None:
            extra = nn.functional.cross_entropy(auxiliary, labels)
            loss = loss + self.config.auxiliary_weight * extra
        return loss

    def state(self) -> dict[str, Any]:
        """Return all that the next epoch depends on; randomness depends on its number alone."""
        return {"network": self.net.state_dict(), "optimiser": self.optimiser.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put a stored state back, bit for bit."""
        self.net.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])


@torch.no_grad()
def evaluate(net: Network, images: ImageSet, batch_size: int = 96) -> dict[str, float]:
    """Return loss, top-1 and top-5 accuracy (0 to 1) of a network on clean images.

    Every image counts once, whatever the batches; the network's mode is put back afterwards.
    """
    training = net.training
    net.eval()
    total, in_top5 = torch.zeros(3, device=images.images.device), 0
    for indices in epoch_batches(len(images), max(2, min(batch_size, len(images))), None):
        batch, labels = clean_batch(images, indices)
        logits, _ = net(batch)
        total += figures(logits, labels)
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices
        in_top5 += int((best == labels[:, None]).sum())
    net.train(training)
    loss, correct, count = total.tolist()
    return {"loss": loss / count, "top1": correct / count, "top5": in_top5 / count}
