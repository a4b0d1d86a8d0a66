"""The expected cost of a relaxed cell: a differentiable sum over its edges and operations.

An edge's weights are read as the probability of each operation. The expected cost is then linear in
them, and its gradient says which alpha makes the derived network cheaper. The costs are counted on
the candidate operations themselves. Source: Cai et al., ProxylessNAS (2019), section 3.3.1, which
does so for seconds.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache

import torch
from torch import Tensor, nn

from darts_lib.cost.complexity import multiply_adds
from darts_lib.operations import build_candidate
from darts_lib.relaxation import Mix, mix
from darts_lib.search_space import INPUTS, KINDS, PRIMITIVES, Stem, edges, plan_cells

Image = tuple[int, int, int]
"""The shape of one input of an operation: (channels, height, width)."""


def expected_cost(
    alphas: Mapping[str, Tensor], costs: Mapping[str, Tensor], mix: Mix = mix
) -> Tensor:
    """Return the expected cost, a 0-dim tensor of the costs' type with a gradient for the alphas.

        sum over kinds and edges of  mix(alpha) . cost

    For each kind of cell in `costs`, both tensors are `(edges, primitives)`. `none` takes its share
    and costs nothing. Raises ValueError where the shapes differ. Source: ProxylessNAS, section
    3.3.1.
    """
    wide = {}
    for kind, cost in costs.items():
        alpha = alphas[kind]
        if alpha.shape != cost.shape:
            raise ValueError(
                f"alphas[{kind!r}] has shape {tuple(alpha.shape)} and costs[{kind!r}] "
                f"{tuple(cost.shape)}; give edge_costs the nodes and primitives of the alphas."
            )
        # float32 holds whole numbers up to 2**24 only, less than one network's multiply-adds.
        # Apple's GPUs have nothing wider.
        wide[kind] = alpha.to(torch.float32 if alpha.device.type == "mps" else cost.dtype)
    terms = [(weights * costs[kind].to(weights)).sum() for kind, weights in mix(wide).items()]
    return torch.stack(terms).sum()


def edge_costs(
    channels: int,
    layers: int,
    nodes: int,
    image_size: tuple[int, int],
    primitives: Sequence[str] = PRIMITIVES,
    count: Callable[[nn.Module, Image], int] = multiply_adds,
) -> dict[str, Tensor]:
    """Return the cost of each operation on each edge, summed over the cells of a kind.

    The supernet's shape goes in, with (height, width) of its images; float64 tensors
    `(edges, primitives)` for `normal` and `reduce` come out, ready for `expected_cost`. What all
    architectures share is left out: stem, preprocessing, classifier. `count` is the measure,
    multiply-adds or another; `lambda operation, _: count_parameters(operation)` counts weights.
    Raises ValueError for a primitive that nobody knows.
    """

    @cache
    def cost(name: str, stride: int, image: Image) -> int:
        with torch.device("meta"):
            candidate = build_candidate(name, image[0], stride)
        device = next((weight.device for weight in candidate.parameters()), None)
        for part in candidate.modules():
            if isinstance(part, nn.BatchNorm2d):  # one pixel, as it is counted, has no statistics
                statistics = torch.zeros(2, part.num_features, device=device)
                part.running_mean, part.running_var = statistics
        return count(candidate, image)

    shape, size = (len(edges(nodes)), len(primitives)), image_size
    tables = {kind: torch.zeros(shape, dtype=torch.float64) for kind in KINDS}
    # Edges know the cell's own channels only, so what the stem and the cells put out is all one.
    for plan in plan_cells(channels, layers, dict.fromkeys(KINDS, 1), Stem((channels, channels))):
        # In a reduction cell the edges from its inputs halve the picture, rounding up.
        entering, size = size, ((size[0] + 1) // 2, (size[1] + 1) // 2) if plan.reduces else size
        for row, (source, _) in enumerate(edges(nodes)):
            read, stride = (entering, 1 + plan.reduces) if source < INPUTS else (size, 1)
            costs = [float(cost(name, stride, (plan.channels, *read))) for name in primitives]
            tables[plan.kind][row] += torch.tensor(costs, dtype=torch.float64)
    return tables
