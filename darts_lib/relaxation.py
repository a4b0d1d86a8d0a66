"""The continuous relaxation: mixed operations, search cells and the supernet.

This is the paper's formula, edge by edge, for reading. The alphas are logits; `mix` makes them the
weights of the mixed operations, and the supernet's `forward` takes these. The supernet's parameters
are its convolutions' weights w and nothing else, so the two cannot be confused.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from darts_lib.kernels.averages import global_average
from darts_lib.operations import build_candidate, preprocess
from darts_lib.search_space import INPUTS, KINDS, PRIMITIVES, CellPlan, Stem, edges, plan_cells

Alphas = dict[str, Tensor]
"""Logits by kind of cell, `normal` and `reduce`, each `(edges, primitives)`."""
Mix = Callable[..., dict[str, Tensor]]
"""A function like `mix`: from alphas (and a draw) to the weights of all edges' operations."""


def initial_alphas(
    nodes: int = 4,
    primitives: Sequence[str] = PRIMITIVES,
    seed: int = 0,
    device: torch.device | str = "cpu",
    kinds: Sequence[str] = KINDS,
    inputs: int = INPUTS,
) -> Alphas:
    """Return alphas near zero, 1e-3 times a standard normal, as leaves that ask for gradients.

    The paper says zero; its code adds this little noise to break ties. The draw is on the CPU, so
    the same seed gives the same alphas on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (len(edges(nodes, inputs)), len(primitives))
    draws = {kind: 1e-3 * torch.randn(shape, generator=generator) for kind in kinds}
    return {kind: draw.to(device).requires_grad_() for kind, draw in draws.items()}


def mix(
    alphas: Mapping[str, Tensor], draw: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Turn logits into weights of the same shapes, a softmax along each edge's row. Paper, eq. 2.

        weights[o]  =  exp(alpha[o]) / sum over o' of exp(alpha[o'])

    `draw`, tensors of these shapes too, is what a stochastic method drew for a step: all passes of
    the step see the same. The softmax needs none.
    """
    return {kind: torch.softmax(alpha, dim=-1) for kind, alpha in alphas.items()}


def entropy(weights: Tensor) -> float:
    """Return the mean entropy of weights `(edges, primitives)`, in nats; 0 is decided."""
    return float(torch.special.entr(weights.detach()).sum(dim=-1).mean())


class MixedOp(nn.Module):
    """All candidate operations of one edge, summed with the edge's weights. Paper, equation 2.

    sum over o of  weights[o] * o(x)
    """

    def __init__(self, channels: int, stride: int, primitives: Sequence[str]) -> None:
        super().__init__()
        self.operations = nn.ModuleList(
            build_candidate(name, channels, stride) for name in primitives
        )

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Mix: x `(batch, channels, h, w)`, weights `(primitives,)`, one row of `mix`."""
        pairs = zip(weights, self.operations, strict=True)
        terms: list[Tensor] = [weight * operation(x) for weight, operation in pairs]
        return reduce(torch.add, terms)


class SearchCell(nn.Module):
    """A cell with every edge present and every edge mixed; the nodes joined. Paper, equation 1.

    x_j  =  sum over i < j of  mixed_ij(x_i)
    """

    mixed_op: type[nn.Module] = MixedOp  # another method may mix otherwise

    def __init__(self, plan: CellPlan, nodes: int, primitives: Sequence[str]) -> None:
        super().__init__()
        self.nodes = nodes
        self.preprocess0, self.preprocess1 = preprocess(plan, affine=False)
        self.edges = nn.ModuleList(
            self.mixed_op(plan.channels, 2 if plan.reduces and source < INPUTS else 1, primitives)
            for source, _ in edges(nodes)
        )

    def forward(self, before_previous: Tensor, previous: Tensor, weights: Tensor) -> Tensor:
        """Run the cell; weights `(edges, primitives)`, output `(batch, nodes * channels, h, w)`."""
        states = [self.preprocess0(before_previous), self.preprocess1(previous)]
        for row, (source, target) in enumerate(edges(self.nodes)):
            mixed = self.edges[row](states[source], weights[row])
            if target == len(states):
                states.append(mixed)
            else:
                states[target] = states[target] + mixed
        return torch.cat(states[INPUTS:], dim=1)


class Supernet(nn.Module):
    """The network that holds every architecture of the space at once. Paper, section 2.2.

    All normal cells share the alphas `normal`, all reduction cells the alphas `reduce`; each cell
    has convolutions of its own. Images may be of any size, square or not, odd or even.
    """

    def __init__(
        self,
        channels: int = 16,
        layers: int = 8,
        nodes: int = 4,
        classes: int = 10,
        in_channels: int = 3,
        primitives: Sequence[str] = PRIMITIVES,
    ) -> None:
        super().__init__()
        self.nodes, self.primitives = nodes, tuple(primitives)
        width = 3 * channels
        convolution = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.stem = nn.Sequential(convolution, nn.BatchNorm2d(width, track_running_stats=False))
        plans = plan_cells(channels, layers, dict.fromkeys(KINDS, nodes), Stem((width, width)))
        self.kinds = tuple(plan.kind for plan in plans)
        self.cells = nn.ModuleList(self.build_cell(plan) for plan in plans)
        self.classifier = nn.Linear(nodes * plans[-1].channels, classes)

    def build_cell(self, plan: CellPlan) -> nn.Module:
        """Return one cell of the network; another supernet may compute it in another way."""
        return SearchCell(plan, self.nodes, self.primitives)

    def run_cell(self, cell: nn.Module, *states_and_weights: Tensor) -> Tensor:
        """Run one cell; another supernet may hold less of it for the backward pass."""
        return cell(*states_and_weights)

    def forward(self, images: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """Return logits `(batch, classes)` for images `(batch, in_channels, height, width)`.

        `weights` are those of `mix`: for each kind of cell `(edges, primitives)`.
        """
        self._check(weights)
        before = previous = self.stem(images)
        for kind, cell in zip(self.kinds, self.cells, strict=True):
            before, previous = previous, self.run_cell(cell, before, previous, weights[kind])
        return self.classifier(global_average(previous))

    def _check(self, weights: Mapping[str, Tensor]) -> None:
        expected = (len(edges(self.nodes)), len(self.primitives))
        for kind in set(self.kinds):
            shape = tuple(weights[kind].shape) if kind in weights else "nothing"
            if shape != expected:
                raise ValueError(
                    f"weights[{kind!r}] must have shape {expected} (edges, primitives), not "
                    f"{shape}; mix(initial_alphas(nodes={self.nodes})) makes fitting ones."
                )
