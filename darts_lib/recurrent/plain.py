"""The steps of a recurrent search as the original code takes them, for comparison only.

Node by node, with every time step's own softmax; all gradients are kept in each step, and second
order copies the module. Only the masks are ours: drawn by the caller, not anew in every pass.
"""

import torch
from torch import Tensor, nn

from darts_lib.data.images import Batch
from darts_lib.plain import OriginalSteps
from darts_lib.recurrent.network import LanguageModel, Masks
from darts_lib.recurrent.relaxation import FUNCTIONS, Alphas, SearchCell, initial_alphas, masked
from darts_lib.recurrent.search_space import KIND, PRIMITIVES, row_offset
from darts_lib.recurrent.search_step import RecurrentSearchConfig, activation_terms, cross_entropy


class OriginalCell(SearchCell):
    """`SearchCell` as the original computes it: one sigmoid for all activations of a node."""

    def forward(
        self,
        inputs: Tensor,
        hidden: Tensor,
        alphas: Alphas,
        input_mask: Tensor | None = None,
        hidden_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Step through time; shapes as `SearchCell.forward`."""
        outputs = []
        for x in inputs:
            weights = torch.softmax(alphas[KIND], dim=-1)
            hidden = self.step(masked(x, input_mask), hidden, weights, hidden_mask)
            outputs.append(hidden)
        return torch.stack(outputs), hidden

    def step(self, x: Tensor, hidden: Tensor, weights: Tensor, mask: Tensor | None) -> Tensor:
        """Take one step of time; shapes as `SearchCell.step`."""
        states: Tensor = self.bn(self.first_state(x, hidden, mask))[None]
        for target, matrix in enumerate(self._Ws, 1):
            product = masked(states, mask).view(-1, self.width) @ matrix
            gate, h = product.view(target, -1, 2 * self.width).chunk(2, dim=-1)
            gate, total = torch.sigmoid(gate), torch.zeros_like(hidden)
            rows = weights[row_offset(target) : row_offset(target + 1)]
            for column, name in enumerate(PRIMITIVES):
                if name != "none":
                    mixed = states + gate * (FUNCTIONS[name](h) - states)
                    total = total + (rows[:, column, None, None] * mixed).sum(dim=0)
            states = torch.cat([states, self.bn(total)[None]])
        return states[1:].mean(dim=0)


class RecurrentOriginalSteps(OriginalSteps):
    """The plain language model, its alphas, their optimisers, and one step of either order.

    Batches are (words, words that follow), each `(time, batch)`.
    """

    net: LanguageModel  # type: ignore[assignment]
    momentum = 0.0  # paper, A.1.2

    def __init__(self, config: RecurrentSearchConfig, words: int, device: torch.device) -> None:
        self.config, self.rate, self.decay = config, config.learning_rate, config.weight_decay
        cell = OriginalCell(config.width, config.nodes)
        self.net = LanguageModel(cell, words).to(device)
        self.alphas = initial_alphas(config.nodes, config.seed, device)
        self.optimiser = torch.optim.SGD(self.net.parameters(), self.rate, weight_decay=self.decay)
        self.alpha_optimiser = torch.optim.Adam(
            self.alphas.values(),
            config.alpha_learning_rate,
            weight_decay=config.alpha_weight_decay,
        )
        self.masks = Masks(config.dropout, config.batch_size, config.width, words, device)
        self.hidden = self.net.first_hidden(config.batch_size)

    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        """Return the cross-entropy of a segment."""
        return cross_entropy(net(batch[0], self.hidden, self.masks, self.alphas), batch[1])

    def weight_step(self, batch: Batch) -> None:
        """Take a step of the weights, on the loss with both activation terms."""
        self._clear()
        out = self.net(batch[0], self.hidden, self.masks, self.alphas)
        terms = activation_terms(out, self.config.ar, self.config.tar)
        torch.autograd.backward(cross_entropy(out, batch[1]) + terms)
        nn.utils.clip_grad_norm_(self.net.parameters(), self.config.clip)
        self.optimiser.step()
        self.hidden = out.hidden.detach()
