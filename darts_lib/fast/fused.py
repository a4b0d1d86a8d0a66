"""The supernet's function computed source by source: the fast one.

`relaxation.py` goes edge by edge: with four nodes, fourteen mixed operations of eight candidates.
But fourteen edges leave only five states, and what leaves one state shares most of its work
(`fan.py`). The two inputs are ready at the same time, so they are computed together too. The result
is the same function, in value and in both gradients.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from darts_lib.fast.fan import Fan
from darts_lib.fast.separable import states_of
from darts_lib.kernels.branches import in_turn, side_by_side
from darts_lib.relaxation import SearchCell, Supernet
from darts_lib.search_space import INPUTS, CellPlan, row_offset


class FusedCell(SearchCell):
    """A search cell made of fans: one for its two inputs, one for each node that edges leave."""

    by_source: Tensor

    def __init__(self, plan: CellPlan, nodes: int, primitives: Sequence[str]) -> None:
        super().__init__(plan, nodes, ())
        del self.edges
        self.channels, self.primitives = plan.channels, primitives
        fans = [Fan(plan.channels, INPUTS, nodes, 2 if plan.reduces else 1, primitives)]
        fans += [Fan(plan.channels, 1, nodes - node, 1, primitives) for node in range(1, nodes)]
        self.widths = [fan.edges * plan.channels for fan in fans]
        self.fans = nn.ModuleList(fans)
        rows = [row for fan in range(nodes) for row in self._rows(fan)]
        # On the device: indexing must not wait.
        self.register_buffer("by_source", torch.tensor(rows), persistent=False)

    def _rows(self, fan: int) -> list[int]:
        """Return alpha's rows in the order of a fan's edges."""
        sources = range(INPUTS) if fan == 0 else [INPUTS + fan - 1]
        targets = range(INPUTS + fan, INPUTS + self.nodes)
        return [row_offset(target) + source for source in sources for target in targets]

    def forward(self, before_previous: Tensor, previous: Tensor, weights: Tensor) -> Tensor:
        """Run the cell; weights `(edges, primitives)`, output `(batch, nodes * channels, h, w)`."""
        first = partial(self.preprocess0, before_previous)
        second = partial(self.preprocess1, previous)
        newest = torch.cat(side_by_side([first, second], [before_previous, previous]), dim=1)
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
        """Name, for each of the fans' weights, the plain cell's weights it stacks."""
        names = {}
        for number, fan in enumerate(self.fans):
            assert isinstance(fan, Fan)
            rows = self._rows(number)
            for own, plain in fan.plain_names().items():
                split = [name.split(".", 1) for name in plain]
                names[f"fans.{number}.{own}"] = [
                    f"edges.{rows[int(edge)]}.{rest}" for edge, rest in split
                ]
        return names


class FusedSupernet(Supernet):
    """The supernet with fused cells, in channels_last; the same arguments, the same function.

    The same seed gives the same weights as the plain supernet's. With `recompute` set, a cell keeps
    its two inputs only and is computed again in the backward pass: less memory, more time.
    """

    recompute = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        plain = Supernet(*arguments, **options)
        with torch.random.fork_rng(devices=[]):
            super().__init__(*arguments, **options)
        self.load_plain(plain.state_dict())
        self.to(memory_format=torch.channels_last)

    def build_cell(self, plan: CellPlan) -> FusedCell:
        """Return one cell, made of fans."""
        return FusedCell(plan, self.nodes, self.primitives)

    def run_cell(self, cell: nn.Module, *states_and_weights: Tensor) -> Tensor:
        """Run one cell; with `recompute`, keep only what it is given."""
        if not (self.recompute and torch.is_grad_enabled()):
            return super().run_cell(cell, *states_and_weights)
        # Kept too, since a pass may bring weights other than the module's own (`functional_call`).
        own: dict[str, Tensor] = dict(cell.named_parameters())

        def compute(*given: Tensor) -> Tensor:
            with in_turn():
                out: Tensor = functional_call(cell, own, given)
            return out

        out: Tensor = checkpoint(
            compute, *states_and_weights, use_reentrant=False, preserve_rng_state=False
        )
        return out

    def forward(self, images: Tensor, alphas: Mapping[str, Tensor]) -> Tensor:
        """Return logits `(batch, classes)` for images `(batch, in_channels, height, width)`."""
        return super().forward(images.contiguous(memory_format=torch.channels_last), alphas)

    def plain_names(self) -> dict[str, list[str]]:
        """Name, for each weight of this network, the plain supernet's weights it stacks."""
        names = {name: [name] for name in self.state_dict()}
        for index, cell in enumerate(self.cells):
            assert isinstance(cell, FusedCell)
            names |= {
                f"cells.{index}.{own}": [f"cells.{index}.{name}" for name in plain]
                for own, plain in cell.plain_names().items()
            }
        return names

    def load_plain(self, state: Mapping[str, Tensor]) -> None:
        """Take over the weights of a plain supernet of the same shape."""
        self.load_state_dict(
            {
                own: torch.cat([state[name] for name in plain])
                if len(plain) > 1
                else state[plain[0]]
                for own, plain in self.plain_names().items()
            }
        )

    def to_plain(self, tensors: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return the plain supernet's state; or any tensors named like ours, such as gradients."""
        own_tensors = self.state_dict() if tensors is None else tensors
        plain_state: dict[str, Tensor] = {}
        for own, plain in self.plain_names().items():
            value = own_tensors[own]
            parts = value.chunk(len(plain)) if len(plain) > 1 else (value,)
            plain_state.update(zip(plain, parts, strict=True))
        return plain_state
