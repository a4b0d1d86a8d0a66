"""The continuous relaxation of a recurrent cell: every edge present, every activation mixed.

State 0 is a gated (highway) step from the hidden state h' before, with x the input word:

    [c, h] = [x, h'] W_0        s_0 = h' + sigmoid(c) (tanh(h) - h')

and node i reads every state s_j before it through one matrix W_i that its edges share:

    [c_j, h_j] = s_j W_i        s_i = sum_j sum_o p_jo (s_j + sigmoid(c_j) (o(h_j) - s_j))

with p = mix(alpha), a softmax over the primitives of an edge; `none` adds nothing but keeps its
share.
Every state passes one BatchNorm without gain, and without running statistics: batch statistics
always, as the paper says. The output is the mean of the nodes.

This is the formula node by node and step by step, for reading; `fused.py` computes the same
faster. The parameters are the matrices W and nothing else; p is an argument of `forward`.
Source: paper, sections 2.1 and 3.1.2 and the original code (the paper's own formula has no gate).
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from darts_lib import relaxation
from darts_lib.recurrent.search_space import ACTIVATIONS, INPUTS, KIND, NODES, PRIMITIVES
from darts_lib.search_space import edges, row_offset

Mask = Tensor | None
"""A dropout mask `(batch, width)`, if anything is dropped."""

SPREAD = 0.04
"""Weights start uniform in [-0.04, 0.04], as in the original."""

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "identity": lambda x: x,
}


def initial_alphas(
    nodes: int = NODES, seed: int = 0, device: torch.device | str = "cpu"
) -> relaxation.Alphas:
    """Return the alphas of `darts_lib.relaxation.initial_alphas` for the one kind of cell."""
    return relaxation.initial_alphas(nodes, PRIMITIVES, seed, device, [KIND], INPUTS)


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

    def first_state(self, x: Tensor, hidden: Tensor, mask: Mask) -> Tensor:
        """Return s_0 `(batch, width)` of a word x and the hidden state, both `(batch, width)`.

        x is masked already. The mask acts on what is multiplied by the weights, never on the
        highway, so that a state can pass through time unharmed.
        """
        product = torch.cat([x, masked(hidden, mask)], dim=-1) @ self._W0
        return highway(hidden, product, torch.tanh)


def masked(x: Tensor, mask: Mask) -> Tensor:
    """Multiply by a dropout mask, if there is one."""
    return x if mask is None else x * mask


def highway(state: Tensor, product: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Return s + sigmoid(c) (f(h) - s), with [c, h] the two halves of `product`'s last axis."""
    gate, candidate = product.chunk(2, dim=-1)
    return state + torch.sigmoid(gate) * (function(candidate) - state)


def mixed(states: Tensor, product: Tensor, weights: Tensor) -> Tensor:
    """Return what a node hears on all its edges together, `(batch, width)`: the sum s_i above.

    The states are `(sources, batch, width)`, their product with W_i as wide again, the weights
    `(sources, primitives)`.
    """
    gate, candidate = product.chunk(2, dim=-1)
    gate, total = torch.sigmoid(gate), torch.zeros_like(states[0])
    for name, share in zip(ACTIVATIONS, weights.t()[1:], strict=True):
        terms = states + gate * (FUNCTIONS[name](candidate) - states)
        total = total + (share[:, None, None] * terms).sum(dim=0)
    return total


class SearchCell(GatedCell):
    """The cell that holds every recurrent cell of the space, node by node. Paper, equation 2.

    s_i = BN( sum_{j < i} sum_{o != none} p_jo (s_j + sigmoid(c_j) (o(h_j) - s_j)) )
    """

    def __init__(self, width: int, nodes: int = NODES) -> None:
        super().__init__(width, nodes)
        self.bn = nn.BatchNorm1d(width, affine=False, track_running_stats=False)

    def forward(
        self,
        inputs: Tensor,
        hidden: Tensor,
        weights: Mapping[str, Tensor],
        input_mask: Mask = None,
        hidden_mask: Mask = None,
    ) -> tuple[Tensor, Tensor]:
        """Step through time; return outputs `(time, batch, width)` and the last hidden state.

        Inputs are `(time, batch, width)`, the hidden state and the masks `(batch, width)`, the same
        at every step; weights are those of `mix`. Raises ValueError for what does not fit.
        """
        check(self.nodes, inputs, weights)
        outputs = []
        for x in masked(inputs, input_mask).unbind():
            hidden = self.step(x, hidden, weights[KIND], hidden_mask)
            outputs.append(hidden)
        return torch.stack(outputs), hidden

    def step(self, x: Tensor, hidden: Tensor, weights: Tensor, mask: Mask) -> Tensor:
        """Take one step of time; weights `(edges, primitives)`, all else `(batch, width)`."""
        states = [self.bn(self.first_state(x, hidden, mask))]
        for target, matrix in enumerate(self._Ws, INPUTS):
            before, first = torch.stack(states), row_offset(target, INPUTS)
            product = masked(before, mask) @ matrix
            states.append(self.bn(mixed(before, product, weights[first : first + target])))
        return torch.stack(states[INPUTS:]).mean(dim=0)


def check(nodes: int, inputs: Tensor, weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError, with the way out, for inputs or weights that no relaxed cell can take.

    A batch of one is refused, which batch statistics would turn into zeros.
    """
    if inputs.shape[1] < 2:
        raise ValueError(
            "the recurrent supernet needs a batch of at least 2: its normalisation takes the "
            "statistics of the batch; evaluate it at the search's batch size."
        )
    expected = (len(edges(nodes, INPUTS)), len(PRIMITIVES))
    shape = tuple(weights[KIND].shape) if KIND in weights else "nothing"
    if shape != expected:
        raise ValueError(
            f"weights[{KIND!r}] must have shape {expected} (edges, primitives), not {shape}; "
            f"mix(initial_alphas(nodes={nodes})) makes fitting ones."
        )
