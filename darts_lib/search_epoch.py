"""The settings of a search, and one epoch of it: alphas and weights in turns.

One iteration (paper, algorithm 1): a batch of the weights' half and one of the alphas' half; a step
of the alphas on the validation loss; a step of the weights on the same training batch.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.func import functional_call

from darts_lib.bilevel import ROUTES, InnerStep, Loss, architecture_gradient, route_of
from darts_lib.derivation import derive
from darts_lib.fused import FusedSupernet
from darts_lib.images import epoch_batches, halves, load_images
from darts_lib.progress import live
from darts_lib.relaxation import Alphas, initial_alphas
from darts_lib.runs import Row
from darts_lib.search_space import KINDS
from darts_lib.settings import RunConfig, seed_epoch
from darts_lib.training import Batch, augmented_batch, clean_batch, cosine, figures, require_finite


class SearchConfig(RunConfig):
    """Settings of a search. The defaults are the paper's CIFAR-10 search (A.1.1).

    `order` is 1 or 2 as in the paper; `route` names one of the four routes of `bilevel` and then
    `order` is ignored. `max_skip` limits the normal cell's skip connections; -1 is no limit.
    `max_steps` ends every epoch after so many steps; 0 is all. `max_images` takes only the first
    training images; 0 is all.
    """

    LAPTOP: ClassVar[dict[str, Any]] = {
        "dataset": "digits",
        "channels": 4,
        "layers": 3,
        "epochs": 6,
        "threads": 1,  # on arrays this small a second thread waits more than it works
        # At the paper's 3e-4 and a dozen steps an epoch, the alphas could not move.
        "alpha_learning_rate": 0.05,
    }

    order: int = Field(2, ge=1, le=2)
    route: str = ""
    channels: int = Field(16, ge=2)
    layers: int = Field(8, ge=1)
    nodes: int = Field(4, ge=1)
    learning_rate: float = Field(0.025, gt=0)
    final_learning_rate: float = Field(0.001, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(3e-4, ge=0)
    gradient_clip: float = Field(5.0, gt=0)
    alpha_learning_rate: float = Field(3e-4, ge=0)
    alpha_weight_decay: float = Field(1e-3, ge=0)
    cutout: int = Field(0, ge=0)
    max_skip: int = Field(-1, ge=-1)

    @model_validator(mode="after")
    def _check_route(self) -> Self:
        if self.route and self.route not in ROUTES:
            raise ValueError(f"unknown route {self.route!r}; choose one of {', '.join(ROUTES)}")
        return self

    @property
    def chosen_route(self) -> str:
        """Return the route of the architecture gradient."""
        return route_of(self.order, self.route)


class Search:
    """The state of a search between two epochs, and the epoch itself."""

    def __init__(self, config: SearchConfig) -> None:
        self.config, self.device = config, config.open_device()
        images = load_images(
            config.dataset, config.data_folder, "train", config.image_size, config.max_images
        )
        self.train, self.valid = (half.to(self.device) for half in halves(images))
        seed_epoch(config.seed, -1, self.device)
        self.net = FusedSupernet(
            config.channels, config.layers, config.nodes, len(images.classes), images.channels
        ).to(self.device)
        self.weights = dict(self.net.named_parameters())
        self.alphas = initial_alphas(config.nodes, seed=config.seed, device=self.device)
        self.optimiser = torch.optim.SGD(
            self.weights.values(),
            config.learning_rate,
            config.momentum,
            weight_decay=config.weight_decay,
        )
        self.alpha_optimiser = torch.optim.Adam(
            self.alphas.values(),
            config.alpha_learning_rate,
            betas=(0.5, 0.999),
            weight_decay=config.alpha_weight_decay,
        )

    def epoch(self, epoch: int) -> Row:
        """Run epoch number `epoch` (from 0) and return its row of the history."""
        started, generator = time.perf_counter(), seed_epoch(self.config.seed, epoch, self.device)
        before = {kind: value.detach().clone() for kind, value in self.alphas.items()}
        rate = cosine(
            epoch, self.config.epochs, self.config.learning_rate, self.config.final_learning_rate
        )
        total = torch.zeros(3, device=self.device)
        for train, valid in self.batches(generator):
            total += self.step(train, valid, rate)
        loss, correct, count = total.tolist()
        require_finite(loss / count, epoch + 1, rate, "the run folder")
        row: Row = {"epoch": epoch + 1, "learning_rate": rate}
        row |= {"train_loss": loss / count, "train_accuracy": correct / count}
        row |= self.evaluate() | self._alpha_figures(before)
        return row | {"seconds": time.perf_counter() - started}

    def batches(self, generator: torch.Generator) -> Iterator[tuple[Batch, Batch]]:
        """Yield (training, validation) batches; an epoch goes through the weights' half once.

        The alphas' half is shuffled and used up before it is shuffled anew. Both are augmented,
        as in the original; `evaluate` uses clean images.
        """
        config, order = self.config, torch.Generator().manual_seed(generator.initial_seed())
        valid_batches: list[Tensor] = []
        batches = epoch_batches(len(self.train), config.batch_size, order)
        for indices in live(batches[: self._limit]):
            valid_batches = valid_batches or epoch_batches(
                len(self.valid), config.batch_size, order
            )
            yield (
                augmented_batch(self.train, indices, config.cutout, generator),
                augmented_batch(self.valid, valid_batches.pop(), config.cutout, generator),
            )

    def step(self, train: Batch, valid: Batch, learning_rate: float) -> Tensor:
        """Take one step of the alphas, then one of the weights on the same training batch.

        Returns (summed loss, correct, count) of the training batch, on the device.
        """
        gradient = architecture_gradient(
            self.loss(train),
            self.loss(valid),
            self.weights,
            self.alphas,
            self.inner_step(learning_rate),
            self.config.chosen_route,
        )
        for kind, value in gradient.total.items():
            self.alphas[kind].grad = value
        self.alpha_optimiser.step()
        return self._weight_step(train, learning_rate)

    def inner_step(self, learning_rate: float) -> InnerStep:
        """Return the step that stands for the inner optimum: the weight step without its clip."""
        states = self.optimiser.state
        buffers = {
            name: states[weight]["momentum_buffer"]
            for name, weight in self.weights.items()
            if weight in states
        }
        return InnerStep(learning_rate, self.config.momentum, self.config.weight_decay, buffers)

    def loss(self, batch: Batch) -> Loss:
        """Return the loss of a batch as a function of weights and alphas, for `bilevel`."""
        images, labels = batch

        def loss(weights: Mapping[str, Tensor], alphas: Mapping[str, Tensor]) -> Tensor:
            logits = functional_call(self.net, dict(weights), (images, alphas))
            return nn.functional.cross_entropy(logits, labels)

        return loss

    def _weight_step(self, batch: Batch, learning_rate: float) -> Tensor:
        images, labels = batch
        self.optimiser.param_groups[0]["lr"] = learning_rate
        self.optimiser.zero_grad()
        logits = self.net(images, {kind: value.detach() for kind, value in self.alphas.items()})
        torch.autograd.backward(nn.functional.cross_entropy(logits, labels))
        nn.utils.clip_grad_norm_(self.weights.values(), self.config.gradient_clip)
        self.optimiser.step()
        return figures(logits.detach(), labels)

    @torch.no_grad()
    def evaluate(self) -> Row:
        """Return loss and accuracy of the supernet on clean images of the alphas' half.

        The supernet keeps no running statistics: each batch is normalised by its own.
        """
        total = torch.zeros(3, device=self.device)
        for indices in epoch_batches(len(self.valid), self.config.batch_size, None)[: self._limit]:
            images, labels = clean_batch(self.valid, indices)
            total += figures(self.net(images, self.alphas), labels)
        loss, correct, count = total.tolist()
        return {"valid_loss": loss / count, "valid_accuracy": correct / count}

    @property
    def _limit(self) -> int | None:
        return self.config.max_steps or None

    def _alpha_figures(self, before: Alphas) -> Row:
        row: Row = {f"entropy_{kind}": entropy(self.alphas[kind]) for kind in KINDS}
        moved = [(self.alphas[kind].detach() - before[kind]).square().sum() for kind in KINDS]
        limit = None if self.config.max_skip < 0 else self.config.max_skip
        genotype = derive(self.alphas, self.net.primitives, limit)
        row |= {"alpha_change": float(torch.stack(moved).sum().sqrt())}
        return row | {"skips": genotype.skips(), "genotype": genotype.to_dict()}

    def state(self) -> dict[str, Any]:
        """Return all that the next epoch depends on; randomness depends on its number alone."""
        return {
            "weights": self.net.state_dict(),
            "alphas": {kind: value.detach() for kind, value in self.alphas.items()},
            "optimiser": self.optimiser.state_dict(),
            "alpha_optimiser": self.alpha_optimiser.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put a stored state back, bit for bit."""
        self.net.load_state_dict(state["weights"])
        with torch.no_grad():
            for kind, value in self.alphas.items():
                value.copy_(state["alphas"][kind])
        self.optimiser.load_state_dict(state["optimiser"])
        self.alpha_optimiser.load_state_dict(state["alpha_optimiser"])


def entropy(alphas: Tensor) -> float:
    """Return the mean entropy (nats) of the edges' choices; ln(primitives) is 'undecided'."""
    log_weights = torch.log_softmax(alphas.detach(), dim=-1)
    return float(-(log_weights.exp() * log_weights).sum(dim=-1).mean())
