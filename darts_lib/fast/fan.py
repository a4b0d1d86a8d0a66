"""A fan: all edges that leave one state, or the cell's two inputs, computed together.

It needs one ReLU, one max pool and one average pool, each normalised once. For each candidate, the
depthwise convolutions of all edges are one grouped convolution, and so are the pointwise ones. The
weights of a mixed operation are the gain of the normalisation that its candidates end with, so
mixing costs nothing more, and `none` costs nothing at all.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from darts_lib.kernels.branches import side_by_side
from darts_lib.kernels.depthwise import Depthwise, convolve, depthwise, join_phases, split_phases
from darts_lib.kernels.pointwise import fast_form, pointwise
from darts_lib.operations import DilatedConv, SeparableConv, every_second_pixel, normalise
from darts_lib.relaxation import MixedOp
from darts_lib.search_space import INPUTS, CellPlan


class Round(nn.Module):
    """A depthwise and a pointwise convolution of one candidate, on all edges at once.

    Channels are ordered by edge: `(batch, edges * channels, h, w)` in and out. A window with as
    much dilation as stride reads every `step`-th row and column only, and no others need to come.
    """

    def __init__(self, plain: Depthwise, edges: int) -> None:
        super().__init__()
        (stride, _), (dilation, _), channels = plain.stride, plain.dilation, plain.in_channels
        self.step = stride if stride == dilation else 1
        self.stride, self.dilation = stride // self.step, dilation // self.step
        self.depthwise = nn.Parameter(torch.empty(edges * channels, 1, *plain.kernel_size))
        self.pointwise = nn.Parameter(torch.empty(edges * channels, channels, 1, 1))

    def forward(self, x: Tensor, mixing: Tensor, dilation: int) -> Tensor:
        """Convolve each channel by itself, then mix: by the pointwise weight or its `fast_form`."""
        if self.stride == 1:
            return pointwise(depthwise(x, self.depthwise, dilation), mixing)
        return pointwise(convolve(x, self.depthwise, dilation, self.stride), mixing)


class Separables(nn.ModuleDict):
    """The depthwise-separable candidates by name, each a list of rounds."""

    def __init__(self, candidates: Mapping[str, nn.Module], sources: int, targets: int) -> None:
        super().__init__()
        self.sources, self.targets = sources, targets
        for name, plain in candidates.items():
            if isinstance(plain, SeparableConv | DilatedConv):
                layers = [layer for layer in plain.op if isinstance(layer, Depthwise)]
                self[name] = nn.ModuleList(Round(layer, sources * targets) for layer in layers)

    def rounds(self, name: str) -> list[Round]:
        """Return the rounds of a candidate."""
        return cast("list[Round]", list(self[name].children()))

    def branches(
        self, rectified: Tensor, gains: Mapping[str, Tensor]
    ) -> tuple[list[Callable[[], Tensor]], list[Tensor]]:
        """Return what computes the candidates' weighted sum, in parts that do not wait for others.

        `rectified` are the states after their ReLU, side by side; `gains` each candidate's
        `(edges * channels,)`. With the parts comes what was made for several of them.
        """
        firsts = {name: self.rounds(name)[0] for name in self}
        steps = sorted({first.step for first in firsts.values()})
        inputs = {step: self._repeated(rectified, step) for step in steps}
        weights = [each.pointwise for name in self for each in self.rounds(name)]
        forms = fast_form(weights, self.sources * self.targets)
        left, shared = iter(forms), [*inputs.values(), *forms]
        parts: dict[int, list[Callable[[Tensor, int], Tensor]]] = {}
        branches: list[Callable[[], Tensor]] = []
        for name, first in firsts.items():
            mixings = [next(left) for _ in self.rounds(name)]
            part = partial(self._candidate, name, mixings, gains[name])
            if fast_in_phases(rectified, first.dilation):
                parts.setdefault(first.dilation, []).append(part)
            else:
                branches.append(partial(part, inputs[first.step], first.dilation))
        for dilation, own in parts.items():
            branches.append(partial(_over_phases, own, inputs[1], dilation))
        return branches, shared

    def _repeated(self, rectified: Tensor, step: int) -> Tensor:
        """Lay each state once for each of its edges: by cat, repeat would leave channels_last."""
        thinned = rectified if step == 1 else rectified[:, :, ::step, ::step]
        if self.targets == 1:
            return thinned
        return torch.cat(state_of_each_edge(thinned, self.sources, self.targets), dim=1)

    def _candidate(
        self, name: str, mixings: Sequence[Tensor], gain: Tensor, x: Tensor, dilation: int
    ) -> Tensor:
        first, *others = zip(self.rounds(name), mixings, strict=True)
        out: Tensor = first[0](x, first[1], dilation)
        for again, mixing in others:
            out = again(F.relu(normalise(out)), mixing, 1)
        return normalise(out, gain)


def fast_in_phases(x: Tensor, dilation: int) -> bool:
    """Say whether phases pay: on the CPU they are no faster, and kept for the backward pass."""
    return x.is_cuda and has_whole_phases(x, dilation)


def has_whole_phases(x: Tensor, dilation: int) -> bool:
    """Say whether phases would have no line of zeros at the end, which would be normalised too."""
    return dilation > 1 and all(side % dilation == 0 for side in x.shape[2:])


def _over_phases(
    parts: Sequence[Callable[[Tensor, int], Tensor]], x: Tensor, dilation: int
) -> Tensor:
    """Sum dilated candidates over the phases of their input, where their windows are not dilated.

    A pointwise convolution and a normalisation do not care where a pixel lies.
    """
    pictures = split_phases(x, dilation)
    return join_phases(summed([part(pictures, 1) for part in parts]), dilation)


def states_of(x: Tensor, count: int) -> Sequence[Tensor]:
    """Return the states that `x` holds side by side; to split off a single one would copy it."""
    return x.chunk(count, dim=1) if count > 1 else [x]


def state_of_each_edge(x: Tensor, sources: int, targets: int) -> list[Tensor]:
    """Return, for each edge of a fan in their order, the state that it leaves."""
    return [state for state in states_of(x, sources) for _ in range(targets)]


def summed(parts: Sequence[Tensor]) -> Tensor:
    """Return the sum of candidates, in place of the first one."""
    total, *rest = parts
    for part in rest:  # no backward pass asks for what a part was
        total.add_(part)
    return total


POOLED = ("max_pool_3x3", "avg_pool_3x3")


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
    states come side by side. A candidate without a joined form (`other`) goes edge by edge.
    """

    same_channel: Tensor

    def __init__(
        self, plan: CellPlan, sources: int, primitives: Sequence[str], edges: Mapping[int, MixedOp]
    ) -> None:
        super().__init__()
        self.channels, self.sources = plan.channels, sources
        self.stride = 2 if plan.reduces and sources == INPUTS else 1
        self.rows, self.targets = list(edges), len(edges) // sources
        self.column = {name: column for column, name in enumerate(primitives)}
        first, *_ = edges.values()
        plain = dict(zip(primitives, first.operations, strict=True))
        self.separable = Separables(plain, sources, self.targets)
        pools = {name: cast("nn.Sequential", plain[name])[0] for name in POOLED if name in plain}
        self.pools = nn.ModuleDict(pools)  # without the normalisation, which joins them
        self.skips = "skip_connect" in plain
        if self.skips and self.stride == 2:
            shape = (len(edges) * self.channels // 2, self.channels, 1, 1)
            self.conv_1, self.conv_2 = (nn.Parameter(torch.empty(shape)) for _ in range(2))
        same = torch.eye(self.channels).repeat(len(edges), 1)  # 1: an edge's channel is the state's
        self.register_buffer("same_channel", same, persistent=False)
        joined = {*self.separable, *pools, "skip_connect", "none"}
        self.other = nn.ModuleDict()
        for name, column in self.column.items():
            if name not in joined:
                self.other[name] = nn.ModuleList(edge.operations[column] for edge in edges.values())

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
            pooled = torch.cat([pool(state) for pool in self.pools.values()], dim=1)
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

    def _reduced(self, rectified: Tensor, gain: Tensor) -> Tensor:
        """Return every edge's FactorizedReduce, its two halves next to each other."""
        even, odd = every_second_pixel(rectified)
        halves = map(pointwise, (even, odd), fast_form([self.conv_1, self.conv_2], self.sources))
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
