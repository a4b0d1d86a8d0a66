"""The settings of a recurrent search, and one step of it: first the alphas, then the weights.

One iteration (paper, algorithm 1) takes a segment of the training text and one of the validation
text. The alphas step on the validation loss, then the weights on the same training segment, with

    L_train  +  ar mean(dropped^2)  +  tar mean((h_t - h_{t-1})^2)

whose last two terms are the weights' alone. Masks are drawn once for each of the two segments, and
every pass over a segment sees the same ones. The hidden state at the end of a segment is the next
one's first, cut from its graph. Nothing in the step waits for the device.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.func import functional_call

from darts_lib.bilevel import (
    DOUBLE_BACKWARD,
    ROUTES,
    InnerStep,
    Loss,
    architecture_gradient,
    gradients,
    held,
    route_of,
)
from darts_lib.engine.acceleration import Captured
from darts_lib.engine.finite_guard import FiniteGuard
from darts_lib.engine.optimisers import follow, laid_out_like, load_adam
from darts_lib.engine.refusals import show
from darts_lib.recurrent.network import Masks, Output, supernet
from darts_lib.recurrent.relaxation import initial_alphas
from darts_lib.recurrent.search_space import KIND, NODES
from darts_lib.recurrent.settings import TextConfig

Words = tuple[Tensor, Tensor]
"""The words of a segment and the words that follow them, both `(time, batch)`."""


class RecurrentSearchConfig(TextConfig):
    """Settings of a recurrent search. The defaults are the paper's for Penn Treebank (A.1.2).

    `order` is 1 or 2 as in the paper; `route` names one of the four routes of `bilevel` and then
    `order` is ignored. The inner step is clipped as the weight step is.
    """

    KIND = "recurrent-search"
    LAPTOP: ClassVar[dict[str, Any]] = {
        "dataset": "topics",
        "width": 32,
        "batch_size": 32,
        "epochs": 4,
        "max_steps": 20,
        "threads": 1,  # on arrays this small a second thread waits more than it works
        # At the paper's 3e-3 and a few dozen steps, the alphas could not move.
        "alpha_learning_rate": 0.03,
        # The paper's 0.75 suits 50 epochs; in a few dozen steps nothing would be learnt.
        "dropout_cell_input": 0.2,
        "dropout_output": 0.2,
    }

    order: int = Field(2, ge=1, le=2)
    route: str = ""
    nodes: int = Field(NODES, ge=1, le=100)
    epochs: int = Field(50, ge=1)
    batch_size: int = Field(256, ge=2)
    alpha_learning_rate: float = Field(3e-3, ge=0)
    alpha_weight_decay: float = Field(1e-3, ge=0)

    @model_validator(mode="after")
    def _check_route(self) -> Self:
        if self.route and self.route not in ROUTES:
            raise ValueError(f"unknown route {show(self.route)}; choose one of {', '.join(ROUTES)}")
        if self.graph == "on" and self.chosen_route in DOUBLE_BACKWARD:
            raise ValueError(
                f"graph='on' cannot be with route={self.route!r}, which differentiates twice; use "
                "'off', or route='finite_difference'"
            )
        return self

    @property
    def chosen_route(self) -> str:
        """Return the route of the architecture gradient."""
        return route_of(self.order, self.route)


class RecurrentSearchStep:
    """What a search changes: weights, alphas, optimisers, hidden states; and one step of it."""

    def __init__(self, config: RecurrentSearchConfig, words: int, device: torch.device) -> None:
        self.config, self.device = config, device
        self.net = supernet(config.width, words, config.nodes).to(device)
        self.weights = dict(self.net.named_parameters())
        self.alphas = initial_alphas(config.nodes, config.seed, device)
        # A tensor, so that a recorded step follows the length of the segment.
        self.rate = torch.tensor(config.learning_rate, device=device)
        self.guard = FiniteGuard(device)
        self.optimiser = torch.optim.SGD(
            self.weights.values(), self.rate, weight_decay=config.weight_decay, fused=True
        )
        self.alpha_optimiser = torch.optim.Adam(
            self.alphas.values(),
            config.alpha_learning_rate,
            weight_decay=config.alpha_weight_decay,
            fused=True,
            capturable=config.graph == "on",
        )
        sizes = (config.batch_size, config.width, words, device)
        self.train_masks, self.valid_masks = (Masks(config.dropout, *sizes) for _ in range(2))
        self.train_hidden, self.valid_hidden = (
            self.net.first_hidden(config.batch_size) for _ in range(2)
        )
        self._take = (
            Captured(self.eager_step, self._changed) if config.graph == "on" else self.eager_step
        )

    def step(self, train: Words, valid: Words) -> Tensor:
        """Take one step of the alphas, then one of the weights on the same training segment.

        Returns (summed cross-entropy, words) of the training segment, on the device.
        """
        usual = len(train[0]) == len(valid[0]) == self.config.bptt  # other lengths are rare
        return (self._take if usual else self.eager_step)(*train, *valid)

    def eager_step(self, tokens: Tensor, targets: Tensor, *valid: Tensor) -> Tensor:
        """Take a step as it is written: what a graph records."""
        train, ends = (tokens, targets), [self.valid_hidden]
        gradient = architecture_gradient(
            self.loss(train, self.train_hidden, self.train_masks),
            self.loss((valid[0], valid[1]), self.valid_hidden, self.valid_masks, ends),
            self.weights,
            self.alphas,
            self.inner_step(self.rate),
            self.config.chosen_route,
        )
        self.valid_hidden.copy_(ends[-1])
        self._alpha_step(gradient.total, gradient.valid_loss)
        done = self._weight_step(train)
        self.guard.count()
        return done

    def _alpha_step(self, total: Mapping[str, Tensor], loss: Tensor) -> None:
        self.alphas[KIND].grad = total[KIND]
        self.guard.watch(self.alpha_optimiser, loss, total[KIND].norm())
        self.alpha_optimiser.step()

    def _weight_step(self, train: Words) -> Tensor:
        out = self.net(train[0], self.train_hidden, self.train_masks, held(self.alphas))
        entropy = cross_entropy(out, train[1])
        loss = entropy + activation_terms(out, self.config.ar, self.config.tar)
        weights = list(self.weights.values())
        for weight, value in zip(weights, gradients(loss, weights), strict=True):
            weight.grad = laid_out_like(value, weight)
        norm = nn.utils.clip_grad_norm_(weights, self.config.clip)
        self.guard.watch(self.optimiser, loss, norm)
        self.optimiser.step()
        self.train_hidden.copy_(out.hidden.detach())
        return summed(entropy, train[1])

    def inner_step(self, learning_rate: float | Tensor) -> InnerStep:
        """Return the step that stands for the inner optimum: the weight step, clip and all.

        The clip's coefficient min(1, clip / norm) is a constant to the gradient. The original code
        does not cap it at 1, and clips the vector of the Hessian product too; both are left out.
        """
        return InnerStep(learning_rate, 0.0, self.config.weight_decay, clip=self.config.clip)

    def loss(
        self, words: Words, hidden: Tensor, masks: Masks, ends: list[Tensor] | None = None
    ) -> Loss:
        """Return the loss of a segment as a function of weights and alphas, for `bilevel`.

        Every call sees the same masks. The last hidden state of each is appended to `ends`.
        """

        def loss(weights: Mapping[str, Tensor], alphas: Mapping[str, Tensor]) -> Tensor:
            arguments = (words[0], hidden, masks, dict(alphas))
            out: Output = functional_call(self.net, dict(weights), arguments)
            if ends is not None:
                ends.append(out.hidden.detach())
            return cross_entropy(out, words[1])

        return loss

    def _changed(self) -> list[Tensor]:
        """Return every tensor that a step changes in place."""
        kept = [*self.weights.values(), *self.alphas.values(), *self.guard.state]
        kept += [self.train_hidden, self.valid_hidden]
        for slots in self.alpha_optimiser.state.values():
            kept += [value for value in slots.values() if isinstance(value, Tensor)]
        return kept

    def state(self) -> dict[str, Any]:
        """Return all that the next epoch depends on; an epoch begins with hidden states of 0."""
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
        load_adam(self.alpha_optimiser, state["alpha_optimiser"], self.config.graph == "on")


def cross_entropy(out: Output, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy (nats) a word; its exponential is the perplexity."""
    return nn.functional.cross_entropy(out.logits.flatten(0, 1), targets.flatten())


def activation_terms(out: Output, ar: float, tar: float) -> Tensor:
    """Return the penalty on large and on quickly changing hidden states (Merity et al., 2017).

    A segment of one word has no change, and no term for it.
    """
    loss = ar * out.dropped.square().mean()
    if len(out.outputs) > 1:
        loss = loss + tar * (out.outputs[1:] - out.outputs[:-1]).square().mean()
    return loss


def summed(entropy: Tensor, targets: Tensor) -> Tensor:
    """Return (summed cross-entropy, words): segments of different lengths are weighted rightly."""
    entropy = entropy.detach()
    words = torch.full_like(entropy, targets.numel())  # made on the device, nothing is sent there
    return torch.stack([entropy * words, words])
