"""The steps of a recurrent search as the original code takes them, for comparison only.

Node by node; all gradients are kept in each step, and second order copies the module. Ours is that
the caller draws the masks, and that the softmax is taken once a pass, not at every step of time.
"""

import torch
from torch import Tensor, nn

from darts_lib.data.images import Batch
from darts_lib.plain import OriginalSteps
from darts_lib.recurrent.network import LanguageModel
from darts_lib.recurrent.relaxation import SearchCell, initial_alphas
from darts_lib.recurrent.search import RecurrentSearchConfig, activation_terms, cross_entropy
from darts_lib.relaxation import mix


class RecurrentOriginalSteps(OriginalSteps):
    """The plain language model, its alphas, their optimisers, and one step of either order.

    Batches are (words, words that follow), each `(time, batch)`.
    """

    net: LanguageModel  # type: ignore[assignment]

    def __init__(self, config: RecurrentSearchConfig, words: int, device: torch.device) -> None:
        self.config, self.rate, self.decay = config, config.learning_rate, config.weight_decay
        self.momentum = 0.0  # paper, A.1.2
        self.net = LanguageModel(SearchCell(config.width, config.nodes), words).to(device)
        self.alphas = initial_alphas(config.nodes, config.seed, device)
        self.optimiser = torch.optim.SGD(self.net.parameters(), self.rate, weight_decay=self.decay)
        self.alpha_optimiser = torch.optim.Adam(
            self.alphas.values(), config.alpha_learning_rate, weight_decay=config.alpha_weight_decay
        )
        self.masks = self.net.masks(config.dropout, config.batch_size)
        self.hidden = self.net.first_hidden(config.batch_size)

    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        """Return the cross-entropy of a segment."""
        return cross_entropy(net(batch[0], self.hidden, self.masks, mix(self.alphas)), batch[1])

    def weight_step(self, batch: Batch) -> None:
        """Take a step of the weights, on the loss with both activation terms."""
        self._clear()
        out = self.net(batch[0], self.hidden, self.masks, mix(self.alphas))
        terms = activation_terms(out, self.config.ar, self.config.tar)
        torch.autograd.backward(cross_entropy(out, batch[1]) + terms)
        nn.utils.clip_grad_norm_(self.net.parameters(), self.config.clip)
        self.optimiser.step()
        self.hidden = out.hidden.detach()
