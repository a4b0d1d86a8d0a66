"""The relaxed recurrent cell computed faster: the same function, weights and names.

What does not depend on time is done once for all steps: the input half of W_0.
What edges share is done once for all of them: a state s_j is multiplied by the matrices of all
later nodes in one product. The activations of an edge are mixed before a single interpolation:

    sum_o p_o (s + c (o(h) - s))  =  q s + c (sum_o p_o o(h) - q s),    q = sum_o p_o,  o not none

`mix` is this formula and `Mix` the same with its gradient written out. On arrays so small it is the
number of operations that costs, and torch would derive more than twice as many.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from darts_lib.recurrent.relaxation import Mask, SearchCell, check, masked
from darts_lib.recurrent.search_space import INPUTS, KIND, NODES
from darts_lib.search_space import edges


class FusedSearchCell(SearchCell):
    """`SearchCell`, source by source. Equal to rounding, in value and in both gradients."""

    def __init__(self, width: int, nodes: int = NODES) -> None:
        super().__init__(width, nodes)
        sources = [source for source, _ in edges(nodes, INPUTS)]
        for source in range(nodes):  # on the device: a list would be copied there in each pass
            rows = torch.tensor([row for row, other in enumerate(sources) if other == source])
            self.register_buffer(f"rows_{source}", rows, persistent=False)

    def forward(
        self,
        inputs: Tensor,
        hidden: Tensor,
        weights: Mapping[str, Tensor],
        input_mask: Mask = None,
        hidden_mask: Mask = None,
    ) -> tuple[Tensor, Tensor]:
        """Step through time; shapes and errors as `SearchCell.forward`."""
        check(self.nodes, inputs, weights)
        # For each source the matrices of the nodes after it, side by side, gates first.
        gates, candidates = zip(*(matrix.chunk(2, dim=1) for matrix in self._Ws), strict=True)
        matrices = [torch.cat([*gates[j:], *candidates[j:]], dim=1) for j in range(self.nodes)]
        # For each source what its outgoing edges keep, `(5, outgoing edges, 1)`: the weights of the
        # four activations, and their sum.
        kept = weights[KIND][:, 1:]
        kept = torch.cat([kept, kept.sum(dim=1, keepdim=True)], dim=1)
        rows = (self.get_buffer(f"rows_{source}") for source in range(self.nodes))
        shares = [kept.index_select(0, row).t()[:, :, None] for row in rows]
        from_input, from_hidden = self._W0.chunk(2)
        outputs = []
        for x in (masked(inputs, input_mask) @ from_input).unbind():
            product = torch.addmm(x, masked(hidden, hidden_mask), from_hidden)
            gate, candidate = product.chunk(2, dim=-1)
            state = torch.lerp(hidden, torch.tanh(candidate), torch.sigmoid(gate))
            hidden = self._nodes(self.bn(state), matrices, shares, hidden_mask)
            outputs.append(hidden)
        return torch.stack(outputs), hidden

    def _nodes(
        self, state: Tensor, matrices: list[Tensor], shares: list[Tensor], mask: Mask
    ) -> Tensor:
        """Return the mean of the nodes' states; `state` is s_0, `(batch, width)`."""
        waiting: Tensor | None = None  # what the nodes still to come have heard so far
        states = []
        for matrix, share in zip(matrices, shares, strict=True):
            product = (masked(state, mask) @ matrix).view(len(state), 2, -1, self.width)
            heard: Tensor = Mix.apply(state, product, share)
            if waiting is not None:
                heard = heard + waiting
            first, waiting = torch.split(heard, [1, heard.shape[1] - 1], dim=1)
            state = self.bn(first.squeeze(dim=1))
            states.append(state)
        return torch.stack(states).mean(dim=0)


def mix(state: Tensor, product: Tensor, share: Tensor) -> Tensor:
    """Return what the nodes after a state hear from it, `(batch, outgoing edges, width)`.

    The state is `(batch, width)`, its product with the nodes' matrices `(batch, 2, outgoing edges,
    width)`, gates and then candidates, and the share `(5, outgoing edges, 1)`.
    """
    tanh, relu, sigmoid, identity, kept = share.unbind()
    gate, h = product.unbind(dim=1)
    mixed = tanh * torch.tanh(h) + relu * torch.relu(h) + sigmoid * torch.sigmoid(h) + identity * h
    return torch.lerp(kept * state[:, None], mixed, torch.sigmoid(gate))


class Mix(torch.autograd.Function):
    """`mix` with its gradient written out; the gradient of that gradient is left to torch."""

    @staticmethod
    def forward(ctx: Any, state: Tensor, product: Tensor, share: Tensor) -> Tensor:
        """Return `mix` of the same arguments."""
        tanh, relu, sigmoid, identity, kept = share.unbind()
        h = product[:, 1]
        t, r, gate_and_s = torch.tanh(h), torch.relu(h), torch.sigmoid(product)
        gate, s = gate_and_s.unbind(dim=1)
        mixed = (tanh * t).addcmul_(relu, r).addcmul_(sigmoid, s).addcmul_(identity, h)
        start = kept * state[:, None]
        out = torch.lerp(start, mixed, gate)
        ctx.save_for_backward(state, product, share, t, r, gate_and_s, mixed.sub_(start))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Return the gradients by state, product and share, that by the share only if wanted.

        Where they are themselves to be differentiated, torch derives them.
        """
        state, product, share, t, r, gate_and_s, way = ctx.saved_tensors
        if torch.is_grad_enabled():  # independent of one another, though the product is the state's
            inputs = [value.view_as(value) for value in (state, product, share)]
            wanted = [x for x, asked in zip(inputs, ctx.needs_input_grad, strict=True) if asked]
            slopes = iter(torch.autograd.grad(mix(*inputs), wanted, grad, create_graph=True))
            return tuple(next(slopes) if asked else None for asked in ctx.needs_input_grad)
        tanh, relu, sigmoid, identity, kept = share.unbind()
        h, (gate, s) = product[:, 1], gate_and_s.unbind(dim=1)
        by_mixed = grad * gate
        by_start = grad - by_mixed
        by_product = torch.empty_like(product)
        by_gate, by_h = by_product.unbind(dim=1)
        torch.mul(by_start, gate, out=by_gate).mul_(way)
        # tanh' = 1 - t^2, relu' is 0 or 1, sigmoid' = s - s^2
        torch.addcmul(tanh + identity, tanh * t, t, value=-1, out=by_h)
        weighted = sigmoid * s
        by_h.add_(weighted).addcmul_(weighted, s, value=-1)
        by_h.addcmul_(relu, torch.sign(r)).mul_(by_mixed)
        by_state = (by_start * kept).sum(dim=1)
        if not ctx.needs_input_grad[2]:
            return by_state, by_product, None
        by_share = [(by_mixed * part).sum(dim=(0, 2)) for part in (t, r, s, h)]
        by_share.append((by_start * state[:, None]).sum(dim=(0, 2)))
        return by_state, by_product, torch.stack(by_share)[:, :, None]
