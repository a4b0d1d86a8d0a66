"""A fan: all edges that leave one state, or the cell's two inputs, computed together.

It needs one ReLU, one max pool and one average pool, each normalised once. For each candidate, the
depthwise convolutions of all edges are one grouped convolution, and so are the pointwise ones. The
weights of a mixed operation are the gain of the normalisation that its candidates end with, so
mixing costs nothing more, and `none` costs nothing at all.
"""

from collections.abc import Mapping, Sequence
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from darts_lib.fast.separable import SEPARABLE, Separables, state_of_each_edge, states_of, summed
from darts_lib.kernels.branches import side_by_side
from darts_lib.kernels.pointwise import fast_form, pointwise
from darts_lib.operations import every_second_pixel, normalise
from darts_lib.relaxation import MixedOp

POOLED = ("max_pool_3x3", "avg_pool_3x3")
JOINED = (*SEPARABLE, *POOLED, "skip_connect", "none")
"""Candidates with a joined form; any other is computed edge by edge inside the fan."""


class _Contiguous(torch.autograd.Function):
    """The identity, whose gradient lies in one piece.

    What `cat` hands back is a slice, and normalising the gradient of a slice takes twelve times as
    long on the CPU as copying it first.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.contiguous(memory_format=torch.channels_last)


class Fan(nn.Module):
    """The mixed operations of all edges from some states of equal shape to the same targets.

    It is made of the plain `edges`, by alpha's row, ordered by state, then by target. The
    states come side by side.
    """

    same_channel: Tensor

    def __init__(
        self,
        channels: int,
        sources: int,
        stride: int,
        primitives: Sequence[str],
        edges: Mapping[int, MixedOp],
    ) -> None:
        super().__init__()
        self.channels, self.stride, self.sources = channels, stride, sources
        self.rows, self.targets = list(edges), len(edges) // sources
        self.column = {name: column for column, name in enumerate(primitives)}
        separable = [name for name in primitives if name in SEPARABLE]
        self.separable = Separables(channels, sources, self.targets, stride, separable)
        self.pools = [name for name in POOLED if name in self.column]
        self.skips = "skip_connect" in self.column
        if self.skips and stride == 2:
            shape = (len(edges) * channels // 2, channels, 1, 1)
            self.conv_1, self.conv_2 = (nn.Parameter(torch.empty(shape)) for _ in range(2))
        # 1 where a channel of an edge is the state's
        same = torch.eye(channels).repeat(len(edges), 1)
        self.register_buffer("same_channel", same, persistent=False)
        self.other = nn.ModuleDict(
            {
                name: nn.ModuleList(edge.operations[column] for edge in edges.values())
                for name, column in self.column.items()
                if name not in JOINED
            }
        )

    def forward(self, state: Tensor, gains: Mapping[str, Tensor]) -> Tensor:
        """Return what each target hears, side by side: `(batch, targets * channels, h', w')`.

        `state` is `(batch, sources * channels, h, w)`. `gains` has each candidate's weights
        on the edges, each spread over the channels of its edge: `(edges * channels,)`, contiguous.
        """
        rectified = F.relu(state)
        branches, shared = self.separable.branches(rectified, gains)
        if self.pools or (self.skips and self.stride == 1):
            branches.append(partial(self._plain, state, gains))
        if self.skips and self.stride == 2:
            branches.append(partial(self._reduced, rectified, gains["skip_connect"]))
        for name, operations in self.other.items():
            branches.append(partial(self._edge_by_edge, operations, state, gains[name]))
        if not branches:  # only `none`
            small = state[:, : self.channels, :: self.stride, :: self.stride]
            return torch.zeros_like(small).repeat(1, self.targets, 1, 1)
        edges = summed(side_by_side(branches, [state, rectified, *gains.values(), *shared]))
        return reduce(torch.add, states_of(edges, self.sources))

    def _plain(self, state: Tensor, gains: Mapping[str, Tensor]) -> Tensor:
        """Mix pools and identity: a state's edges share them, so one small product does."""
        parts: list[Tensor] = []
        names = list(self.pools)
        if self.pools:
            pooled = torch.cat([self._pool(name, state) for name in self.pools], dim=1)
            parts.append(_Contiguous.apply(normalise(pooled)))
        if self.skips and self.stride == 1:
            parts.append(state)
            names.append("skip_connect")
        columns = torch.stack([gains[name] for name in names], dim=1)
        kernel = (columns[:, :, None] * self.same_channel[:, None, :]).flatten(1)
        (mixing,) = fast_form([kernel[..., None, None]], self.sources)
        return pointwise(self._by_source(parts), mixing)

    def _by_source(self, parts: Sequence[Tensor]) -> Tensor:
        """Join what holds the states side by side, once or more, with all of one state together."""
        if self.sources == 1:
            return torch.cat(list(parts), dim=1)
        pieces = [piece for part in parts for piece in torch.split(part, self.channels, dim=1)]
        order = [piece for i in range(self.sources) for piece in pieces[i :: self.sources]]
        return torch.cat(order, dim=1)

    def _edge_by_edge(self, operations: nn.Module, state: Tensor, gain: Tensor) -> Tensor:
        states = state_of_each_edge(state, self.sources, self.targets)
        pairs = zip(operations.children(), states, strict=True)
        return torch.cat([operation(one) for operation, one in pairs], dim=1) * gain[:, None, None]

    def _pool(self, name: str, state: Tensor) -> Tensor:
        if name == "max_pool_3x3":
            return F.max_pool2d(state, 3, self.stride, 1)
        return F.avg_pool2d(state, 3, self.stride, 1, count_include_pad=False)

    def _reduced(self, rectified: Tensor, gain: Tensor) -> Tensor:
        """Return every edge's FactorizedReduce, its two halves next to each other."""
        even, odd = every_second_pixel(rectified)
        mixings = fast_form([self.conv_1, self.conv_2], self.sources)
        halves = map(pointwise, (even, odd), mixings)
        split = [torch.unflatten(half, 1, (len(self.rows), self.channels // 2)) for half in halves]
        joined = torch.stack(split, dim=2).flatten(1, 3)
        return normalise(joined.contiguous(memory_format=torch.channels_last), gain)

    def plain_names(self) -> dict[str, list[str]]:
        """Name, for each weight of the fan, the plain cell's weights that it stacks, in order."""
        parts: dict[str, tuple[str, str]] = {}
        for name in self.separable:
            for number in range(len(self.separable.rounds(name))):
                for kind, position in (("depthwise", 1), ("pointwise", 2)):
                    part = f"op.{4 * number + position}.weight"
                    parts[f"separable.{name}.{number}.{kind}"] = name, part
        if self.skips and self.stride == 2:
            parts |= {conv: ("skip_connect", f"{conv}.weight") for conv in ("conv_1", "conv_2")}
        names = {
            stacked: [f"edges.{row}.operations.{self.column[name]}.{part}" for row in self.rows]
            for stacked, (name, part) in parts.items()
        }
        for name, operations in self.other.items():
            for key in operations.state_dict():
                edge, _, part = key.partition(".")
                row, column = self.rows[int(edge)], self.column[name]
                names[f"other.{name}.{key}"] = [f"edges.{row}.operations.{column}.{part}"]
        return names
