"""The supernet's function computed source by source: the fast one.

`relaxation.py` goes edge by edge: with four nodes, fourteen mixed operations of eight candidates.
But fourteen edges leave only five states, and what leaves one state shares most of its work
(`fan.py`). The two inputs are ready at the same time, so they are computed together too. The result
is the same function, in value and in both gradients.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from darts_lib.fast.fan import Fan, states_of
from darts_lib.kernels.branches import in_turn, together
from darts_lib.relaxation import MixedOp, SearchCell, Supernet
from darts_lib.search_space import INPUTS, CellPlan, row_offset


class FusedCell(nn.Module):
    """A plain search cell made into fans: one for its two inputs, one for each later source."""

    by_source: Tensor

    def __init__(self, cell: SearchCell, plan: CellPlan, primitives: Sequence[str]) -> None:
        super().__init__()
        self.preprocess0, self.preprocess1 = cell.preprocess0, cell.preprocess1
        self.nodes, self.channels, self.primitives = cell.nodes, plan.channels, primitives
        self.fans, by_source = nn.ModuleList(), list[int]()  # alpha's rows in the fans' order
        for fan in range(self.nodes):
            sources = [INPUTS + fan - 1] if fan else range(INPUTS)
            targets = range(INPUTS + fan, INPUTS + self.nodes)
            rows = [row_offset(target) + source for source in sources for target in targets]
            edges = {row: cast("MixedOp", cell.edges[row]) for row in rows}
            self.fans.append(Fan(plan, len(sources), primitives, edges))
            by_source += rows
        self.widths = [len(cast("Fan", fan).rows) * plan.channels for fan in self.fans]
        # On the device: indexing must not wait.
        self.register_buffer("by_source", torch.tensor(by_source), persistent=False)
        self.load_state_dict(stacked(cell.state_dict(), self.plain_names()))

    def forward(self, before_previous: Tensor, previous: Tensor, weights: Tensor) -> Tensor:
        """Run the cell; weights `(edges, primitives)`, output `(batch, nodes * channels, h, w)`."""
        inputs = together((self.preprocess0, before_previous), (self.preprocess1, previous))
        newest = torch.cat(inputs, dim=1)
        nodes: list[Tensor] = []
        heard: list[Tensor] = []  # by each node that is not ready, so far
        for fan, gains in zip(self.fans, self._gains(weights), strict=True):
            more = states_of(fan(newest, gains), self.nodes - len(nodes))
            heard = list(map(torch.add, heard, more)) if heard else list(more)
            ready, *heard = heard  # the next node has heard all its sources
            newest = ready.contiguous(memory_format=torch.channels_last)  # of a slice
            nodes.append(newest)
        return torch.cat(nodes, dim=1)

    def _gains(self, weights: Tensor) -> list[dict[str, Tensor]]:
        """Return, for each fan, its candidates' weights spread over channels; all in one go."""
        own = weights.index_select(0, self.by_source)
        spread = own.t().repeat_interleave(self.channels, dim=1).flatten()
        fans = len(self.widths)
        parts = torch.split(spread, self.widths * len(self.primitives))  # by candidate, then by fan
        return [dict(zip(self.primitives, parts[i::fans], strict=True)) for i in range(fans)]

    def plain_names(self) -> dict[str, list[str]]:
        """Name, for each weight of this cell, the plain cell's weights that it stacks."""
        names = {name: [name] for name in self.state_dict()}
        for number, fan in enumerate(self.fans):
            fans = cast("Fan", fan).plain_names()
            names |= {f"fans.{number}.{name}": plain for name, plain in fans.items()}
        return names


def stacked(plain: Mapping[str, Tensor], names: Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
    """Return tensors of a plain network stacked as `names` says."""
    return {
        name: torch.cat([plain[part] for part in parts]) if len(parts) > 1 else plain[parts[0]]
        for name, parts in names.items()
    }


class FusedSupernet(Supernet):
    """The supernet with fused cells, in channels_last; the same arguments, the same function.

    The same seed gives the same weights as the plain supernet's. With `recompute` set, a cell keeps
    its two inputs only and is computed again in the backward pass: less memory, more time.
    """

    recompute = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.to(memory_format=torch.channels_last)

    def build_cell(self, plan: CellPlan) -> nn.Module:
        """Return one cell: the plain one, its edges made into fans."""
        return FusedCell(cast("SearchCell", super().build_cell(plan)), plan, self.primitives)

    def run_cell(self, cell: nn.Module, *states_and_weights: Tensor) -> Tensor:
        """Run one cell; with `recompute`, keep only what it is given."""
        if not (self.recompute and torch.is_grad_enabled()):
            return super().run_cell(cell, *states_and_weights)
        # Kept too, since a pass may bring weights other than the module's own (`functional_call`).
        weights: dict[str, Tensor] = dict(cell.named_parameters())

        def compute(*states_and_weights: Tensor) -> Tensor:
            with in_turn():
                return functional_call(cell, weights, states_and_weights)

        return checkpoint(
            compute, *states_and_weights, use_reentrant=False, preserve_rng_state=False
        )

    def forward(self, images: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """Return logits `(batch, classes)` for images `(batch, in_channels, height, width)`."""
        return super().forward(images.contiguous(memory_format=torch.channels_last), weights)

    def plain_names(self) -> dict[str, list[str]]:
        """Name, for each weight of this network, the plain supernet's weights that it stacks."""
        names = {name: [name] for name in self.state_dict()}
        for index, cell in enumerate(self.cells):
            for name, plain in cast("FusedCell", cell).plain_names().items():
                names[f"cells.{index}.{name}"] = [f"cells.{index}.{part}" for part in plain]
        return names

    def load_plain(self, state: Mapping[str, Tensor]) -> None:
        """Take over the weights of a plain supernet of the same shape."""
        self.load_state_dict(stacked(state, self.plain_names()))

    def to_plain(self, tensors: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return the plain supernet's state; or any tensors named like ours, such as gradients."""
        ours = self.state_dict() if tensors is None else tensors
        plain: dict[str, Tensor] = {}
        for name, parts in self.plain_names().items():
            values = ours[name].chunk(len(parts)) if len(parts) > 1 else (ours[name],)
            plain.update(zip(parts, values, strict=True))
        return plain
