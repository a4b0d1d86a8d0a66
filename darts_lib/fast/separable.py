"""The depthwise-separable candidates of a fan: `sep_conv` and `dil_conv`, on all edges at once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from darts_lib.kernels.depthwise import convolve, depthwise, join_phases, split_phases
from darts_lib.kernels.pointwise import fast_form, pointwise
from darts_lib.operations import normalise


@dataclass(frozen=True)
class Separable:
    """How a depthwise-separable candidate is built; `repeats` is 2 for `sep_conv`, 1 for `dil`."""

    kernel: int
    dilation: int
    repeats: int


SEPARABLE = {
    "sep_conv_3x3": Separable(3, 1, 2),
    "sep_conv_5x5": Separable(5, 1, 2),
    "sep_conv_7x7": Separable(7, 1, 2),
    "dil_conv_3x3": Separable(3, 2, 1),
    "dil_conv_5x5": Separable(5, 2, 1),
}


class Round(nn.Module):
    """A depthwise and a pointwise convolution of one candidate, on all edges at once.

    Channels are ordered by edge: `(batch, edges * channels, h, w)` in and out. A window with as
    much dilation as stride reads every `step`-th row and column only, and no others need to come.
    """

    def __init__(self, form: Separable, channels: int, edges: int, stride: int) -> None:
        super().__init__()
        self.step = stride if stride == form.dilation else 1
        self.stride, self.dilation = stride // self.step, form.dilation // self.step
        width = edges * channels
        self.depthwise = nn.Parameter(torch.empty(width, 1, form.kernel, form.kernel))
        self.pointwise = nn.Parameter(torch.empty(width, channels, 1, 1))

    def forward(self, x: Tensor, mixing: Tensor, dilation: int) -> Tensor:
        """Convolve each channel by itself, then mix the channels of each edge.

        `mixing` is the pointwise weight or a `fast_form` of it.
        """
        if self.stride == 1:
            return pointwise(depthwise(x, self.depthwise, dilation), mixing)
        return pointwise(convolve(x, self.depthwise, dilation, self.stride), mixing)


class Separables(nn.ModuleDict):
    """The candidates by name, each a list of rounds."""

    def __init__(
        self, channels: int, sources: int, targets: int, stride: int, names: Sequence[str]
    ) -> None:
        super().__init__()
        self.sources, self.targets = sources, targets
        self.edges = edges = sources * targets
        for name in names:
            form, strides = SEPARABLE[name], (stride, 1)
            rounds = (Round(form, channels, edges, each) for each in strides[: form.repeats])
            self[name] = nn.ModuleList(rounds)

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
        forms = fast_form(weights, self.edges)
        left = iter(forms)
        mixings = {name: [next(left) for _ in self.rounds(name)] for name in self}
        shared = [*inputs.values(), *forms]
        parts: dict[int, list[Callable[[Tensor, int], Tensor]]] = {}
        branches: list[Callable[[], Tensor]] = []
        for name, first in firsts.items():
            part = partial(self._candidate, name, mixings[name], gains[name])
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
    """Say whether dilated candidates are better computed over phases.

    On the CPU it is not faster, and the phases would be kept for the backward pass.
    """
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
