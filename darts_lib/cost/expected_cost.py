"""The expected cost of a relaxed cell: a differentiable sum over its edges and operations.

An edge's softmax is read as the probability of each operation. The expected cost is then linear in
it, and its gradient says which alpha makes the derived network cheaper. The costs are counted on
the candidate operations themselves. Source: Cai et al., ProxylessNAS (2019), section 3.3.1, which
does so for seconds.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache

import torch
from torch import Tensor, nn

from darts_lib.cost.complexity import multiply_adds
from darts_lib.operations import build_candidate
from darts_lib.search_space import INPUTS, KINDS, PRIMITIVES, CellPlan, Stem, edges, plan_cells

Size = tuple[int, int]
"""(height, width) in pixels."""
Image = tuple[int, int, int]
"""The shape of one input of an operation: (channels, height, width)."""
Count = Callable[[nn.Module, Image], int]
"""Counts what an operation costs on an input of this shape."""


def expected_cost(alphas: Mapping[str, Tensor], costs: Mapping[str, Tensor]) -> Tensor:
    """Return the expected cost, a 0-dim tensor of the costs' type with a gradient for the alphas.

    For each kind of cell in `costs`, both tensors are `(edges, primitives)`; the sum runs over
    kinds and edges of softmax(alpha) times cost. `none` takes its share and costs nothing. Raises
    ValueError where the shapes differ. Source: ProxylessNAS, section 3.3.1.
    """
    terms = [_kind_cost(kind, alphas[kind], cost) for kind, cost in costs.items()]
    return torch.stack(terms).sum()


def _kind_cost(kind: str, alpha: Tensor, cost: Tensor) -> Tensor:
    if alpha.shape != cost.shape:
        raise ValueError(
            f"alphas[{kind!r}] has shape {tuple(alpha.shape)} and costs[{kind!r}] "
            f"{tuple(cost.shape)}; give edge_costs the nodes and primitives of the alphas."
        )
    # float32 holds whole numbers up to 2**24 only, less than one network's multiply-adds.
    # Apple's GPUs have nothing wider.
    dtype = torch.float32 if alpha.device.type == "mps" else cost.dtype
    weights = torch.softmax(alpha, dim=-1, dtype=dtype)
    return (weights * cost.to(alpha.device, dtype)).sum()


def edge_costs(
    channels: int,
    layers: int,
    nodes: int,
    image_size: Size,
    primitives: Sequence[str] = PRIMITIVES,
    count: Count = multiply_adds,
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
        _let_count_alone(candidate)
        return count(candidate, image)

    shape = len(edges(nodes)), len(primitives)
    tables = {kind: torch.zeros(shape, dtype=torch.float64) for kind in KINDS}
    for plan, size in _cells(channels, layers, image_size):
        for row, (source, _) in enumerate(edges(nodes)):
            stride, image = _edge_input(plan, size, source)
            row_costs = [float(cost(name, stride, image)) for name in primitives]
            tables[plan.kind][row] += torch.tensor(row_costs, dtype=torch.float64)
    return tables


def _let_count_alone(candidate: nn.Module) -> None:
    """Give normalisations statistics: one pixel of one picture, as it is counted, has none."""
    device = next((weight.device for weight in candidate.parameters()), None)
    for part in candidate.modules():
        if isinstance(part, nn.BatchNorm2d):
            statistics = torch.zeros(2, part.num_features, device=device)
            part.running_mean, part.running_var = statistics


def _cells(channels: int, layers: int, size: Size) -> Iterator[tuple[CellPlan, Size]]:
    # Edges know the cell's own channels only, so what the stem and the cells put out is all one.
    plans = plan_cells(channels, layers, dict.fromkeys(KINDS, 1), Stem((channels, channels)))
    for plan in plans:
        yield plan, size
        size = _halved(size) if plan.reduces else size


def _edge_input(plan: CellPlan, size: Size, source: int) -> tuple[int, Image]:
    """Return the stride of an edge and what it reads, in a cell whose inputs have this size."""
    if not plan.reduces:
        return 1, (plan.channels, *size)
    if source < INPUTS:
        return 2, (plan.channels, *size)
    return 1, (plan.channels, *_halved(size))


def _halved(size: Size) -> Size:
    return (size[0] + 1) // 2, (size[1] + 1) // 2
