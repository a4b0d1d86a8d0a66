"""The steps of a search as the original code takes them, for comparison only.

The plain supernet in torch's default layout; the alpha step keeps all gradients; second order
copies the module for the virtual step, and asks the device for a number to scale its perturbation.
"""

import copy

import torch
from torch import Tensor, nn

from darts_lib.data.images import Batch
from darts_lib.relaxation import Supernet, initial_alphas
from darts_lib.search_settings import SearchConfig


class OriginalSteps:
    """The plain supernet, its alphas, their optimisers, and one step of either order."""

    momentum: float

    def __init__(self, config: SearchConfig, device: torch.device) -> None:
        self.net = Supernet(config.channels, config.layers, config.nodes).to(device)
        self.alphas = initial_alphas(config.nodes, seed=config.seed, device=device)
        self.rate, self.decay = config.learning_rate, config.weight_decay
        self.momentum, self.clip = config.momentum, config.gradient_clip
        self.optimiser = torch.optim.SGD(
            self.net.parameters(), self.rate, self.momentum, weight_decay=self.decay
        )
        self.alpha_optimiser = torch.optim.Adam(
            self.alphas.values(),
            config.alpha_learning_rate,
            betas=(0.5, 0.999),
            weight_decay=config.alpha_weight_decay,
        )

    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        """Return the loss of a batch."""
        return nn.functional.cross_entropy(net(batch[0], self.alphas), batch[1])

    def gradients(self, batch: Batch) -> None:
        """Compute the gradients by all weights and alphas."""
        self._clear()
        torch.autograd.backward(self.loss(self.net, batch))

    def _clear(self) -> None:
        self.optimiser.zero_grad()
        self.alpha_optimiser.zero_grad()

    def weight_step(self, batch: Batch) -> None:
        """Take a step of the weights."""
        self.gradients(batch)
        nn.utils.clip_grad_norm_(self.net.parameters(), self.clip)
        self.optimiser.step()

    def first_order(self, train: Batch, valid: Batch) -> None:
        """Take a first-order step; the weights' gradients of its alpha step are thrown away."""
        self.gradients(valid)
        self.alpha_optimiser.step()
        self.weight_step(train)

    def second_order(self, train: Batch, valid: Batch) -> None:
        """Take a second-order step, with a copy of the module as the virtual weights."""
        self.gradients(train)
        virtual = copy.deepcopy(self.net)
        with torch.no_grad():
            for twin, weight in zip(virtual.parameters(), self.net.parameters(), strict=True):
                assert weight.grad is not None
                buffer = self.optimiser.state[weight].get("momentum_buffer", 0)
                twin.sub_(self.rate * (weight.grad + self.decay * weight + self.momentum * buffer))
        self._clear()
        virtual.zero_grad()
        torch.autograd.backward(self.loss(virtual, valid))
        v = [weight.grad for weight in virtual.parameters() if weight.grad is not None]
        direct = [alpha.grad.clone() for alpha in self.alphas.values() if alpha.grad is not None]
        eps = 1e-2 / float(torch.cat([part.flatten() for part in v]).norm())
        sides: list[tuple[Tensor, ...]] = []
        for move in (eps, -2 * eps, eps):
            with torch.no_grad():
                for weight, part in zip(self.net.parameters(), v, strict=True):
                    weight.add_(move * part)
            if len(sides) < 2:
                alphas = list(self.alphas.values())
                sides.append(torch.autograd.grad(self.loss(self.net, train), alphas))
        for alpha, part, plus, minus in zip(self.alphas.values(), direct, *sides, strict=True):
            alpha.grad = part - self.rate * (plus - minus) / (2 * eps)
        self.alpha_optimiser.step()
        self.weight_step(train)
