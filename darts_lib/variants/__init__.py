"""Methods of search: a row each says where it departs from DARTS, in `darts_lib.search` and here.

For whoever has an idea: write what changes in a module of its own, and add its row to `METHODS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from darts_lib.fast.fused import FusedSupernet
from darts_lib.relaxation import Mix, Supernet, mix

Draw = Callable[[Mapping[str, Tensor], torch.Generator], Mapping[str, Tensor]]
"""Draws from alphas' shapes and an epoch's generator what `mix` is given in a step's passes."""


@dataclass(frozen=True)
class Method:
    """Where a method departs from DARTS; the defaults are DARTS.

    `mix` turns alphas into the operations' weights; `draw` is what it draws once a step, the same
    for every pass of it. `supernets` are the forms of the supernet that the method can run on, all
    of one function: edge by edge to read, by source to be quick.
    """

    mix: Mix = mix
    draw: Draw | None = None
    supernets: Mapping[str, type[Supernet]] = field(
        default_factory=lambda: {"fused": FusedSupernet, "plain": Supernet}
    )


METHODS: dict[str, Method] = {"darts": Method()}
"""Every method by its name in `SearchConfig(method=...)`."""
