"""The continuous relaxation of a recurrent cell: every edge present, every activation mixed.

State 0 is a gated (highway) step from the hidden state h' before, with x the input word:

    [c, h] = [x, h'] W_0        s_0 = h' + sigmoid(c) (tanh(h) - h')

and node i reads every state s_j before it through one matrix W_i that its edges share:

    [c_j, h_j] = s_j W_i        s_i = sum_j sum_o p_jo (s_j + sigmoid(c_j) (o(h_j) - s_j))

with p = softmax(alpha) over the primitives of an edge; `none` adds nothing but keeps its share.
Every state passes one BatchNorm without gain, and without running statistics: batch statistics
always, as the paper says. The output is the mean of the nodes.

This is the formula node by node and step by step, for reading; `fused.py` computes the same
faster. The parameters are the weights and nothing else; the alphas are an argument of `forward`.
Source: paper, sections 2.1 and 3.1.2 and the original code (the paper's own formula has no gate).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from darts_lib.recurrent.search_space import KIND, NODES, PRIMITIVES, edges, row_offset

Alphas = dict[str, Tensor]
"""Logits of the one kind of cell, `recurrent`: `(edges, primitives)`."""

SPREAD = 0.04
"""Weights start uniform in [-0.04, 0.04], as in the original."""

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "identity": lambda x: x,
}


def initial_alphas(nodes: int = NODES, seed: int = 0, device: torch.device | str = "cpu") -> Alphas:
    """Return alphas near zero, 1e-3 times a standard normal, as leaves that ask for gradients.

    The draw is on the CPU, so the same seed gives the same alphas on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    draw = 1e-3 * torch.randn(len(edges(nodes)), len(PRIMITIVES), generator=generator)
    return {KIND: draw.to(device).requires_grad_()}


class GatedCell(nn.Module):
    """What the search cell and a derived cell share: the weights and the highway step.

    `_W0` is `(2 width, 2 width)`, each of `_Ws` `(width, 2 width)`; the first half of the columns
    is the gate. Names and shapes are the original's, so that its weights can be loaded.
    """

    def __init__(self, width: int, nodes: int) -> None:
        super().__init__()
        self.width, self.nodes = width, nodes
        self._W0 = nn.Parameter(torch.empty(2 * width, 2 * width).uniform_(-SPREAD, SPREAD))
        self._Ws = nn.ParameterList(
            nn.Parameter(torch.empty(width, 2 * width).uniform_(-SPREAD, SPREAD))
            for _ in range(nodes)
        )

    def first_state(self, x: Tensor, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """Return s_0 `(batch, width)` of a word x and the hidden state, both `(batch, width)`.

        x is masked already. The mask acts on what is multiplied by the weights, never on the
        highway, so that a state can pass through time unharmed.
        """
        product = torch.cat([x, masked(hidden, mask)], dim=-1) @ self._W0
        return highway(hidden, product, torch.tanh)


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """Multiply by a dropout mask, if there is one."""
    return x if mask is None else x * mask


def highway(state: Tensor, product: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Return s + sigmoid(c) (f(h) - s), with [c, h] the two halves of `product`'s last axis."""
    gate, candidate = product.chunk(2, dim=-1)
    return state + torch.sigmoid(gate) * (function(candidate) - state)


class SearchCell(GatedCell):
    """The cell that holds every recurrent cell of the space at once, node by node."""

    def __init__(self, width: int, nodes: int = NODES) -> None:
        super().__init__(width, nodes)
        self.bn = nn.BatchNorm1d(width, affine=False, track_running_stats=False)

    def forward(
        self,
        inputs: Tensor,
        hidden: Tensor,
        alphas: Alphas,
        input_mask: Tensor | None = None,
        hidden_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Step through time; return outputs `(time, batch, width)` and the last hidden state.

        Inputs are `(time, batch, width)`, the hidden state and the masks `(batch, width)`; the
        masks are the same at every step. Raises ValueError for a batch of one, which batch
        statistics would turn into zeros, and for alphas of another shape.
        """
        self.check(inputs, alphas)
        weights, outputs = torch.softmax(alphas[KIND], dim=-1), []
        for x in masked(inputs, input_mask).unbind():
            hidden = self.step(x, hidden, weights, hidden_mask)
            outputs.append(hidden)
        return torch.stack(outputs), hidden

    def step(self, x: Tensor, hidden: Tensor, weights: Tensor, mask: Tensor | None) -> Tensor:
        """Take one step of time; weights `(edges, primitives)`, all else `(batch, width)`."""
        states = [self.bn(self.first_state(x, hidden, mask))]
        for target, matrix in enumerate(self._Ws, 1):
            before = torch.stack(states)
            rows = weights[row_offset(target) : row_offset(target + 1)]
            product = masked(before, mask) @ matrix
            total = torch.zeros_like(hidden)
            for column, name in enumerate(PRIMITIVES):
                if name != "none":
                    mixed = highway(before, product, FUNCTIONS[name])
                    total = total + (rows[:, column, None, None] * mixed).sum(dim=0)
            states.append(self.bn(total))
        return torch.stack(states[1:]).mean(dim=0)

    def check(self, inputs: Tensor, alphas: Alphas) -> None:
        """Raise ValueError, with the way out, for inputs or alphas that do not fit."""
        if inputs.shape[1] < 2:
            raise ValueError(
                "the recurrent supernet needs a batch of at least 2: its normalisation takes the "
                "statistics of the batch; evaluate it at the search's batch size."
            )
        expected = (len(edges(self.nodes)), len(PRIMITIVES))
        found = tuple(alphas[KIND].shape) if KIND in alphas else "nothing"
        if found != expected:
            raise ValueError(
                f"alphas[{KIND!r}] must have shape {expected} (edges, primitives), not {found}; "
                f"initial_alphas(nodes={self.nodes}) makes a fitting one."
            )
