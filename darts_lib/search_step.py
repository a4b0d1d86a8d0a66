"""One step of a search: first the alphas, then the weights.

One iteration (paper, algorithm 1): a batch of the weights' half and one of the alphas' half; a step
of the alphas on the validation loss; a step of the weights on the same training batch. Nothing in
it waits for the device, so that a GPU is never idle and a CUDA graph can hold the whole step.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from darts_lib.bilevel import (
    DOUBLE_BACKWARD,
    InnerStep,
    Loss,
    architecture_gradient,
    gradients,
    held,
)
from darts_lib.cost.expected_cost import edge_costs, expected_cost
from darts_lib.data.images import Batch
from darts_lib.engine.acceleration import Acceleration
from darts_lib.engine.finite_guard import FiniteGuard
from darts_lib.engine.optimisers import figures, follow, laid_out_like, load_adam, momentum_sgd
from darts_lib.engine.ranks import Ranks
from darts_lib.engine.refusals import SettingsError
from darts_lib.fast.fused import FusedSupernet
from darts_lib.kernels.precision import as_autocast
from darts_lib.relaxation import initial_alphas
from darts_lib.search_settings import SearchConfig


class SearchStep:
    """What a search changes: the supernet's weights, the alphas, their optimisers; and one step."""

    def __init__(
        self, config: SearchConfig, classes: int, image: tuple[int, int, int], device: torch.device
    ) -> None:
        """Start a search for images `(channels, height, width)` of so many classes.

        Raises `SettingsError` for a route that several ranks cannot take together.
        """
        self.config, self.device, self.ranks = config, device, Ranks.current()
        if self.ranks.count > 1 and config.chosen_route in DOUBLE_BACKWARD:
            raise SettingsError(
                f"route={config.chosen_route!r} is for one process, not {self.ranks.count}: it "
                "differentiates a gradient that the ranks would first have to share; use order=2."
            )
        counted = edge_costs(config.channels, config.layers, config.nodes, image[1:])
        self.costs = {kind: (cost / 1e6).float().to(device) for kind, cost in counted.items()}
        self.fast = Acceleration.of(config, device)
        self.net = FusedSupernet(
            config.channels, config.layers, config.nodes, classes, image[0]
        ).to(device)
        self.net.recompute = config.recompute
        self.fast.compiled(self.net.cells)
        self.weights = dict(self.net.named_parameters())
        self.alphas = initial_alphas(config.nodes, seed=config.seed, device=device)
        # A tensor, so that a recorded step follows the cosine.
        self.rate = torch.tensor(config.learning_rate, device=device)
        self.guard = FiniteGuard(device)
        self.optimiser = momentum_sgd(
            self.weights.values(), self.rate, config.momentum, config.weight_decay
        )
        self.alpha_optimiser = torch.optim.Adam(
            self.alphas.values(),
            config.alpha_learning_rate,
            betas=(0.5, 0.999),
            weight_decay=config.alpha_weight_decay,
            fused=True,
            capturable=self.fast.graph,
        )
        self._take = self.fast.recorded(self.eager_step, self._changed)

    def step(self, train: Batch, valid: Batch) -> Tensor:
        """Take one step of the alphas, then one of the weights on the same training batch.

        Returns (summed loss, correct, count) of the training batch, on the device.
        """
        return self._take(*train, *valid)

    def eager_step(self, images: Tensor, labels: Tensor, *valid: Tensor) -> Tensor:
        """Take a step as it is written: what a graph records."""
        train = (images, labels)
        with self.fast.autocast():
            gradient = architecture_gradient(
                self.loss(train),
                self.valid_loss((valid[0], valid[1])),
                self.weights,
                self.alphas,
                self.inner_step(self.rate),
                self.config.chosen_route,
                mean=self.ranks.mean,
            )
            self._alpha_step(gradient.total, gradient.valid_loss)
            done = self._weight_step(*train)
        self.guard.count()
        return done

    def _alpha_step(self, total: Mapping[str, Tensor], loss: Tensor) -> None:
        for kind, value in total.items():
            self.alphas[kind].grad = value
        norm = nn.utils.get_total_norm(total.values())
        self.guard.watch(self.alpha_optimiser, loss, norm)
        self.alpha_optimiser.step()

    def _weight_step(self, images: Tensor, labels: Tensor) -> Tensor:
        logits = self.logits(self.weights, images, held(self.alphas))
        loss = nn.functional.cross_entropy(logits, labels)
        weights = list(self.weights.values())
        found = self.ranks.mean(gradients(loss, weights))
        for weight, value in zip(weights, found, strict=True):
            weight.grad = laid_out_like(value, weight)
        norm = nn.utils.clip_grad_norm_(weights, self.config.gradient_clip)
        self.guard.watch(self.optimiser, loss, norm)
        self.optimiser.step()
        return figures(logits.detach().float(), labels)

    def inner_step(self, learning_rate: float | Tensor) -> InnerStep:
        """Return the step that stands for the inner optimum: the weight step without its clip."""
        buffers = {
            name: self.optimiser.state[weight]["momentum_buffer"]
            for name, weight in self.weights.items()
        }
        return InnerStep(learning_rate, self.config.momentum, self.config.weight_decay, buffers)

    def loss(self, batch: Batch) -> Loss:
        """Return the loss of a batch as a function of weights and alphas, for `bilevel`."""
        images, labels = batch
        return lambda weights, alphas: nn.functional.cross_entropy(
            self.logits(weights, images, alphas), labels
        )

    def logits(
        self, weights: Mapping[str, Tensor], images: Tensor, alphas: Mapping[str, Tensor]
    ) -> Tensor:
        """Return what the supernet makes of the images with these weights: `(batch, classes)`."""
        cast = as_autocast(weights)
        self.read = held(cast)  # alive until the next pass: of constants no graph keeps the casts
        return functional_call(self.net, cast, (images, alphas))  # type: ignore[no-any-return]

    def valid_loss(self, batch: Batch) -> Loss:
        """Return what the alphas descend: the validation loss, and the budget if there is one."""
        loss, weight = self.loss(batch), self.config.madds_weight
        if not weight:
            return loss
        return lambda weights, alphas: loss(weights, alphas) + weight * self.madds(alphas)

    def madds(self, alphas: Mapping[str, Tensor]) -> Tensor:
        """Return the expected millions of multiply-adds of all cells' edges, differentiable."""
        return expected_cost(alphas, self.costs)

    @property
    def variables(self) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        """Return weights and alphas, as a loss takes them."""
        return self.weights, self.alphas

    def _changed(self) -> list[Tensor]:
        """Return every tensor that a step changes in place."""
        kept = [*self.weights.values(), *self.alphas.values(), *self.guard.state]
        for optimiser in (self.optimiser, self.alpha_optimiser):
            for slots in optimiser.state.values():
                kept += [value for value in slots.values() if isinstance(value, Tensor)]
        return kept

    def state(self) -> dict[str, Any]:
        """Return all that the next epoch depends on; randomness depends on its number alone."""
        return {
            "weights": self.net.state_dict(),
            "alphas": held(self.alphas),
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
        follow(self.optimiser, self.rate)
        load_adam(self.alpha_optimiser, state["alpha_optimiser"], self.fast.graph)
