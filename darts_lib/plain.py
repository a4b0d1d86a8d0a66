"""The steps of a search in their straightforward form, for reading first.

The plain supernet goes edge by edge; torch's autograd and optimisers do the rest, as in the
original code. The search takes the same steps faster, and a test holds the two to one place:

- `fast.fused` computes the supernet source by source, in channels_last;
- `bilevel` asks for the gradients that a step needs and no others, gives its losses weights that
  have moved where the second order here copies the module and moves the weights there and back,
  and never asks the device for a number;
- `search` records the step as a CUDA graph, computes in bfloat16 where that is safe, shares a batch
  among processes, and leaves out an update whose gradient is no number.
"""

import copy

import torch
from torch import Tensor, nn

from darts_lib.data.images import Batch
from darts_lib.relaxation import Supernet, initial_alphas, mix
from darts_lib.search import SearchConfig


class OriginalSteps:
    """The plain supernet, its alphas, their optimisers, and one step of either order.

    An iteration of Algorithm 1 is `first_order` or `second_order`, on a batch of either half.
    """

    def __init__(self, config: SearchConfig, device: torch.device) -> None:
        self.net = Supernet(config.channels, config.layers, config.nodes).to(device)
        self.alphas = initial_alphas(config.nodes, seed=config.seed, device=device)
        self.rate, self.decay = config.learning_rate, config.weight_decay
        self.momentum, self.clip = config.momentum, config.gradient_clip
        self.optimiser = torch.optim.SGD(
            self.net.parameters(), self.rate, self.momentum, weight_decay=self.decay
        )
        rate, decay = config.alpha_learning_rate, config.alpha_weight_decay
        self.alpha_optimiser = torch.optim.Adam(
            self.alphas.values(), rate, betas=(0.5, 0.999), weight_decay=decay
        )

    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        """Return the loss of a batch."""
        return nn.functional.cross_entropy(net(batch[0], mix(self.alphas)), batch[1])

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
