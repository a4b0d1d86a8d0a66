"""The settings of a retraining, and one step of it: the derived network learns from scratch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn
from torch.func import functional_call

from darts_lib.data.images import Batch
from darts_lib.engine.acceleration import Acceleration
from darts_lib.engine.finite_guard import FiniteGuard
from darts_lib.engine.optimisers import cosine, figures, follow, momentum_sgd
from darts_lib.engine.ranks import Ranks
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.settings import RunConfig
from darts_lib.formats.cell_choice import find_genotype
from darts_lib.genotype import Genotype
from darts_lib.kernels.precision import as_autocast
from darts_lib.network import CellStack, Network


class RetrainConfig(RunConfig):
    """Settings of a retraining. The defaults are the paper's for CIFAR-10 (appendix A.2.1).

    `genotype` is anything `find_genotype` knows; it is stored as the cell's text, so that a run
    stays what it was when a file changes. The learning rate follows a cosine to 0, or with
    `schedule` "exponential" is multiplied by `rate_decay` after each epoch. `holdout` is the share
    of the training images, the last ones, that the network is tested on instead of the test images
    and does not learn from: to choose among cells, which the test images must not do.
    `batch_size` is the whole batch: several ranks divide it, so the learning rate stays what it is;
    a batch k times as large wants k times the rate. `accumulate` computes a rank's share in so many
    parts, one after the other, for less memory. Either way a part is normalised by its own
    statistics; `sync_batch_norm` takes those of all ranks, on GPUs.
    """

    KIND = "retrain"
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
    channels: int = Field(36, ge=2, le=10_000)
    layers: int = Field(20, ge=1, le=1000)
    batch_size: int = Field(96, ge=2)
    learning_rate: float = Field(0.025, gt=0)
    schedule: Literal["cosine", "exponential"] = "cosine"
    rate_decay: float = Field(0.97, gt=0, le=1)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(3e-4, ge=0)
    gradient_clip: float = Field(5.0, gt=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    auxiliary: bool = True
    auxiliary_weight: float = Field(0.4, ge=0)
    drop_path: float = Field(0.2, ge=0, lt=1)
    cutout: int = Field(16, ge=0)
    holdout: float = Field(0.0, ge=0, lt=1)
    accumulate: int = Field(1, ge=1)
    sync_batch_norm: bool = False

    @field_validator("genotype", mode="before")
    @classmethod
    def _name_to_cell(cls, name: object, info: ValidationInfo) -> object:
        if not isinstance(name, str | Genotype | Path) or not str(name):
            return name  # empty: chapter 05 fills it with the cell that chapter 03 found
        return str(find_genotype(str(name), info.data.get("seed", 0)))

    @property
    def cell(self) -> Genotype:
        """Return the genotype itself; an empty name has none and is refused."""
        if not self.genotype:
            raise SettingsError("genotype is empty; name a cell, for example genotype='DARTS_V2'.")
        return Genotype.from_text(self.genotype)

    def rate(self, epoch: int) -> float:
        """Return the learning rate of epoch 0, 1, ... `epochs - 1`."""
        if self.schedule == "exponential":
            return self.learning_rate * self.rate_decay**epoch
        return cosine(epoch, self.epochs, self.learning_rate, 0.0)


def build_network(config: RetrainConfig, classes: int, in_channels: int) -> Network:
    """Return the untrained network of a configuration, in channels_last: the fast layout."""
    net = Network(
        config.cell, config.channels, config.layers, classes, in_channels, config.auxiliary
    )
    return net.to(memory_format=torch.channels_last)


class RetrainStep:
    """What a retraining changes: the network and its optimiser; and one step of it."""

    def __init__(
        self, config: RetrainConfig, classes: int, in_channels: int, device: torch.device
    ) -> None:
        self.config, self.device, self.ranks = config, device, Ranks.current()
        self.fast = Acceleration.of(config, device)
        self.net = self._built(classes, in_channels)
        self.fast.compiled(self.net.cells)
        # Tensors, so that a recorded step follows the schedules.
        self.rate = torch.tensor(config.learning_rate, device=device)
        self.drop_path = torch.zeros((), device=device)
        self.net.drop_path = self.drop_path if config.drop_path else None
        self.guard = FiniteGuard(device)
        self.optimiser = momentum_sgd(
            self.net.parameters(), self.rate, config.momentum, config.weight_decay
        )
        self._take = self.fast.recorded(self.eager_step, self._changed)

    def build(self, classes: int, in_channels: int) -> CellStack:
        """Return the untrained network; another form of network is built by a subclass."""
        return build_network(self.config, classes, in_channels)

    def _built(self, classes: int, in_channels: int) -> CellStack:
        net = self.build(classes, in_channels).to(self.device)
        if not self.config.sync_batch_norm:
            return net
        if self.device.type != "cuda":
            raise SettingsError(
                f"sync_batch_norm=True needs GPUs, not {self.device.type!r}; use False, and as "
                "large a share of the batch for each rank as fits."
            )
        synced: CellStack = nn.SyncBatchNorm.convert_sync_batchnorm(net)  # type: ignore[no-untyped-call]
        return synced

    def step(self, batch: Batch) -> Tensor:
        """Take one step; return (summed loss, correct, count) of the batch, on the device."""
        return self._take(*batch)

    def eager_step(self, images: Tensor, labels: Tensor) -> Tensor:
        """Take a step as it is written: what a graph records."""
        self.optimiser.zero_grad()
        total = torch.zeros(3, device=self.device)
        for part, its_labels in zip(*self._parts(images, labels), strict=True):
            loss, found = self._add_gradients(part, its_labels, len(its_labels) / len(labels))
            total += found
        self._share_gradients()
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), self.config.gradient_clip)
        self.guard.watch(self.optimiser, loss, norm)
        self.optimiser.step()
        self.guard.count()
        return total

    def _parts(self, *batch: Tensor) -> tuple[Sequence[Tensor], ...]:
        """Cut a batch into `accumulate` parts, or fewer: one picture alone has no statistics."""
        parts = max(1, min(self.config.accumulate, len(batch[0]) // 2))
        return tuple(tensor.tensor_split(parts) for tensor in batch)

    def _add_gradients(self, images: Tensor, labels: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """Add a part's gradients, times its share of the batch; return its loss and figures."""
        with self.fast.autocast():
            laid = images.contiguous(memory_format=torch.channels_last)
            weights = as_autocast(dict(self.net.named_parameters()))
            logits, auxiliary = functional_call(self.net, weights, (laid,))
            loss = self.loss(logits, auxiliary, labels)
        torch.autograd.backward(loss * share)
        return loss, figures(logits.detach().float(), labels)

    def _share_gradients(self) -> None:
        """Let every rank have the mean of all ranks' gradients, each in its own memory layout."""
        if self.ranks.count > 1:
            own = [weight.grad for weight in self.net.parameters() if weight.grad is not None]
            torch._foreach_copy_(own, self.ranks.mean(own))

    def loss(self, logits: Tensor, auxiliary: Tensor | None, labels: Tensor) -> Tensor:
        """Return the cross-entropy, plus the auxiliary head's with its weight.

        Label smoothing e turns the target into (1 - e) onehot + e / classes, for both heads.
        """
        smoothing = self.config.label_smoothing
        loss = nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing)
        if auxiliary is not None:
            extra = nn.functional.cross_entropy(auxiliary, labels, label_smoothing=smoothing)
            loss = loss + self.config.auxiliary_weight * extra
        return loss

    def share_statistics(self) -> None:
        """Let every rank have the mean of all ranks' running statistics: after an epoch."""
        own = [buffer for buffer in self.net.buffers() if buffer.is_floating_point()]
        for buffer, mean in zip(own, self.ranks.mean(own), strict=True):
            buffer.copy_(mean)

    def _changed(self) -> list[Tensor]:
        """Return every tensor that a step changes in place."""
        buffers = [slot["momentum_buffer"] for slot in self.optimiser.state.values()]
        return [*self.net.parameters(), *self.net.buffers(), *buffers, *self.guard.state]

    def state(self) -> dict[str, Any]:
        """Return all that the next epoch depends on; randomness depends on its number alone."""
        return {"network": self.net.state_dict(), "optimiser": self.optimiser.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put a stored state back, bit for bit."""
        self.net.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        follow(self.optimiser, self.rate)
