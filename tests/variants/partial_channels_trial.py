"""A trial method: a quarter of the channels goes through the operations, the rest goes beside.

The channels are shuffled afterwards, so that the next edge mixes others. Source: Xu et al.,
PC-DARTS (2020), section 3.2, without its edge normalisation.
"""

import torch
from torch import Tensor, nn

from darts_lib.relaxation import MixedOp, SearchCell, Supernet
from darts_lib.search_space import CellPlan
from darts_lib.variants import Method

SHARE = 4


class PartialMixedOp(nn.Module):
    def __init__(self, channels: int, stride: int, primitives: tuple[str, ...]) -> None:
        super().__init__()
        self.mixed = MixedOp(channels // SHARE, stride, primitives)
        self.beside = nn.MaxPool2d(2, ceil_mode=True) if stride == 2 else nn.Identity()

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        chosen, rest = x.tensor_split([x.shape[1] // SHARE], dim=1)
        joined = torch.cat([self.mixed(chosen, weights), self.beside(rest)], dim=1)
        return nn.functional.channel_shuffle(joined, SHARE)


class PartialCell(SearchCell):
    mixed_op = PartialMixedOp


class PartialSupernet(Supernet):
    def build_cell(self, plan: CellPlan) -> SearchCell:
        return PartialCell(plan, self.nodes, self.primitives)


METHOD = Method(supernets={"plain": PartialSupernet})
