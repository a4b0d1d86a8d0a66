"""The relaxed recurrent cell computed faster: the same function, weights and names.

What does not depend on time is done once for all steps: the input half of W_0, and the softmax.
What edges share is done once for all of them: a state s_j is multiplied by the matrices of all
later nodes in one product. The activations of an edge are mixed before a single interpolation:

    sum_o p_o (s + c (o(h) - s))  =  q s + c (sum_o p_o o(h) - q s),    q = sum_o p_o,  o not none
"""

import torch
from torch import Tensor

from darts_lib.recurrent.relaxation import Alphas, SearchCell, masked
from darts_lib.recurrent.search_space import KIND, edges

Shares = list[tuple[Tensor, ...]]
"""For each source state: the weights of its activations on its outgoing edges, and their sum."""


class FusedSearchCell(SearchCell):
    """`SearchCell`, source by source. Equal to rounding, in value and in both gradients."""

    def forward(
        self,
        inputs: Tensor,
        hidden: Tensor,
        alphas: Alphas,
        input_mask: Tensor | None = None,
        hidden_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Step through time; shapes and errors as `SearchCell.forward`."""
        self.check(inputs, alphas)
        from_input, from_hidden = self._W0.chunk(2)
        projected = masked(inputs, input_mask) @ from_input
        # The matrices of the nodes after each source, side by side.
        matrices = torch.cat(list(self._Ws), dim=1)
        after = [matrices[:, 2 * self.width * source :] for source in range(self.nodes)]
        shares, outputs = self._shares(alphas), []
        for x in projected.unbind():
            product = torch.addmm(x, masked(hidden, hidden_mask), from_hidden)
            gate, candidate = product.chunk(2, dim=-1)
            state = torch.lerp(hidden, torch.tanh(candidate), torch.sigmoid(gate))
            hidden = self._nodes(self.bn(state), after, shares, hidden_mask)
            outputs.append(hidden)
        return torch.stack(outputs), hidden

    def _nodes(
        self, state: Tensor, after: list[Tensor], shares: Shares, mask: Tensor | None
    ) -> Tensor:
        """Return the mean of the nodes' states; `state` is s_0, `(batch, width)`."""
        waiting: list[Tensor] = []  # what the nodes still to come have heard so far
        states = []
        for matrix, share in zip(after, shares, strict=True):
            product = (masked(state, mask) @ matrix).view(len(state), -1, 2 * self.width)
            heard = _mix(state, product, share).unbind(dim=1)
            if waiting:
                heard = tuple(a + b for a, b in zip(waiting, heard, strict=True))
            state, waiting = self.bn(heard[0]), list(heard[1:])
            states.append(state)
        return torch.stack(states).mean(dim=0)

    def _shares(self, alphas: Alphas) -> Shares:
        """Return softmax weights by source, each `(outgoing edges, 1)`."""
        weights = torch.softmax(alphas[KIND], dim=-1)
        sources = [source for source, _ in edges(self.nodes)]
        rows = [[r for r, s in enumerate(sources) if s == j] for j in range(self.nodes)]
        chosen = [weights[row, 1:, None] for row in rows]
        return [(*part.unbind(dim=1), part.sum(dim=1)) for part in chosen]


def _mix(state: Tensor, product: Tensor, share: tuple[Tensor, ...]) -> Tensor:
    """Return what the nodes after a state hear from it, `(batch, outgoing edges, width)`."""
    tanh, relu, sigmoid, identity, kept = share
    gate, h = product.chunk(2, dim=-1)
    mixed = tanh * torch.tanh(h) + relu * torch.relu(h) + sigmoid * torch.sigmoid(h) + identity * h
    return torch.lerp(kept * state[:, None], mixed, torch.sigmoid(gate))
