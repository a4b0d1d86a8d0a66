"""The continuous relaxation: mixed operations, search cells and the supernet.

This is the paper's formula, edge by edge, for reading. The supernet's parameters are the weights
w and nothing else; the alphas are an argument of `forward`, so the two cannot be mixed up.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from darts_lib.kernels.averages import global_average
from darts_lib.operations import FactorizedReduce, ReLUConvBN, build_candidate
from darts_lib.search_space import (
    INPUTS,
    KINDS,
    PRIMITIVES,
    CellPlan,
    Stem,
    edges,
    plan_cells,
    row_offset,
)

Alphas = dict[str, Tensor]
"""Logits by kind of cell, `normal` and `reduce`, each `(edges, primitives)`."""


def initial_alphas(
    nodes: int = 4,
    primitives: Sequence[str] = PRIMITIVES,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Alphas:
    """Return alphas near zero, 1e-3 times a standard normal, as leaves that ask for gradients.

    The paper says zero; its code adds this little noise to break ties. The draw is on the CPU, so
    the same seed gives the same alphas on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (len(edges(nodes)), len(primitives))
    draws = {kind: 1e-3 * torch.randn(shape, generator=generator) for kind in KINDS}
    return {kind: draw.to(device).requires_grad_() for kind, draw in draws.items()}


class MixedOp(nn.Module):
    """All candidate operations of one edge, summed with the edge's weights. Paper, equation 2."""

    def __init__(self, channels: int, stride: int, primitives: Sequence[str]) -> None:
        super().__init__()
        self.operations = nn.ModuleList(
            build_candidate(name, channels, stride) for name in primitives
        )

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Mix: x `(batch, channels, h, w)`, weights `(primitives,)`, a softmax of one row."""
        mixed = zip(weights, self.operations, strict=True)
        terms: list[Tensor] = [w * operation(x) for w, operation in mixed]
        return sum(terms[1:], start=terms[0])


class SearchCell(nn.Module):
    """A cell with every edge present and every edge mixed."""

    def __init__(self, plan: CellPlan, nodes: int, primitives: Sequence[str]) -> None:
        super().__init__()
        self.nodes = nodes
        reduce_first = FactorizedReduce if plan.previous_reduces else ReLUConvBN
        self.preprocess0 = reduce_first(plan.channels_before_previous, plan.channels, affine=False)
        self.preprocess1 = ReLUConvBN(plan.channels_previous, plan.channels, affine=False)
        self.edges = nn.ModuleList(
            MixedOp(plan.channels, 2 if plan.reduces and source < INPUTS else 1, primitives)
            for source, _ in edges(nodes)
        )

    def forward(self, before_previous: Tensor, previous: Tensor, weights: Tensor) -> Tensor:
        """Run the cell; weights `(edges, primitives)`, output `(batch, nodes * channels, h, w)`."""
        states = [self.preprocess0(before_previous), self.preprocess1(previous)]
        for target in range(INPUTS, INPUTS + self.nodes):
            first = row_offset(target)
            incoming = [
                self.edges[first + source](states[source], weights[first + source])
                for source in range(target)
            ]
            states.append(sum(incoming[1:], start=incoming[0]))
        return torch.cat(states[INPUTS:], dim=1)


class Supernet(nn.Module):
    """The network that holds every architecture of the space at once. Paper, section 2.2.

    All normal cells share the alphas `normal`, all reduction cells the alphas `reduce`; each cell
    has weights of its own. Images may be of any size, square or not, odd or even.
    """

    def __init__(
        self,
        channels: int = 16,
        layers: int = 8,
        nodes: int = 4,
        classes: int = 10,
        in_channels: int = 3,
        primitives: Sequence[str] = PRIMITIVES,
        stem_multiplier: int = 3,
    ) -> None:
        super().__init__()
        self.nodes, self.primitives = nodes, tuple(primitives)
        width = stem_multiplier * channels
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width, track_running_stats=False),
        )
        concat_sizes = dict.fromkeys(KINDS, nodes)
        plans = plan_cells(channels, layers, concat_sizes, Stem((width, width)))
        self.kinds = tuple(plan.kind for plan in plans)
        self.cells = nn.ModuleList(self.build_cell(plan) for plan in plans)
        self.classifier = nn.Linear(nodes * plans[-1].channels, classes)

    def build_cell(self, plan: CellPlan) -> SearchCell:
        """Return one cell of the network; another supernet may compute it in another way."""
        return SearchCell(plan, self.nodes, self.primitives)

    def run_cell(self, cell: nn.Module, *states_and_weights: Tensor) -> Tensor:
        """Run one cell; another supernet may hold less of it for the backward pass."""
        out: Tensor = cell(*states_and_weights)
        return out

    def forward(self, images: Tensor, alphas: Mapping[str, Tensor]) -> Tensor:
        """Return logits `(batch, classes)` for images `(batch, in_channels, height, width)`."""
        self._check(alphas)
        weights = {kind: torch.softmax(alphas[kind], dim=-1) for kind in set(self.kinds)}
        before = previous = self.stem(images)
        for kind, cell in zip(self.kinds, self.cells, strict=True):
            before, previous = previous, self.run_cell(cell, before, previous, weights[kind])
        logits: Tensor = self.classifier(global_average(previous))
        return logits

    def _check(self, alphas: Mapping[str, Tensor]) -> None:
        expected = (len(edges(self.nodes)), len(self.primitives))
        for kind in set(self.kinds):
            if kind not in alphas or tuple(alphas[kind].shape) != expected:
                found = tuple(alphas[kind].shape) if kind in alphas else "nothing"
                raise ValueError(
                    f"alphas[{kind!r}] must have shape {expected} (edges, primitives), not "
                    f"{found}; initial_alphas(nodes={self.nodes}) makes a fitting one."
                )
