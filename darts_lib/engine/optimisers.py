"""Optimisers and schedules of a run, and the parts of its state: stored, loaded, listed."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Part = nn.Module | torch.optim.Optimizer | Mapping[str, Tensor]
"""A part of a run's state: what a checkpoint keeps under one name."""


def cosine(epoch: int, epochs: int, first: float, last: float) -> float:
    """Return the learning rate of epoch 0, 1, ... `epochs - 1`: a cosine from `first` to `last`.

    The first epoch has exactly `first`; `last` would be that of the epoch after the final one.
    """
    return last + (first - last) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def momentum_sgd(
    weights: Iterable[Tensor], rate: Tensor, momentum: float, weight_decay: float
) -> torch.optim.SGD:
    """Return a fused SGD that follows the tensor `rate`, its momentum buffers made already.

    They are zeros: what SGD's first step takes them for. So a step never makes state.
    """
    optimiser = torch.optim.SGD(weights, rate, momentum, weight_decay=weight_decay, fused=True)
    for weight in optimiser.param_groups[0]["params"]:
        optimiser.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    return optimiser


def laid_out_like(gradient: Tensor, weight: Tensor) -> Tensor:
    """Return a gradient that lies in memory as its weight does.

    torch's fused SGD reads both in the order in which they lie, and says nothing where the orders
    differ (torch 2.14 on the CPU).
    """
    if _order(gradient) == _order(weight):
        return gradient
    return torch.empty_like(weight).copy_(gradient)


def _order(tensor: Tensor) -> list[int]:
    """Return the strides that matter: along a dimension of size one there is no step to take."""
    return [step for size, step in zip(tensor.shape, tensor.stride(), strict=True) if size > 1]


def stored(part: Part) -> dict[str, Any]:
    """Return what a checkpoint keeps of a part."""
    if isinstance(part, Mapping):
        return {name: tensor.detach() for name, tensor in part.items()}
    return part.state_dict()


def load(part: Part, state: Mapping[str, Any]) -> None:
    """Put back what `stored` returned, bit for bit."""
    if isinstance(part, nn.Module):
        part.load_state_dict(state)
    elif isinstance(part, Mapping):
        with torch.no_grad():
            for name, tensor in part.items():
                tensor.copy_(state[name])
    else:
        _load_optimiser(part, dict(state))


def _load_optimiser(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an optimiser, which goes on following this run's rate and this run's recording.

    A rate that is a tensor takes the stored value, and stays the tensor that the schedule changes.
    Whether a graph may hold the step is this run's matter: one that began on a CPU may go on where
    its steps are recorded.
    """
    group = optimiser.param_groups[0]
    rate, capturable = group["lr"], group.get("capturable")
    optimiser.load_state_dict(state)
    group = optimiser.param_groups[0]
    if isinstance(rate, Tensor):
        rate.copy_(torch.as_tensor(group["lr"]))
        group["lr"] = rate
    if capturable is not None:
        group["capturable"] = capturable


def tensors_of(part: Part) -> list[Tensor]:
    """Return the tensors of a part, which a step may change in place."""
    if isinstance(part, nn.Module):
        return [*part.parameters(), *part.buffers()]
    if isinstance(part, Mapping):
        return list(part.values())
    slots = [value for slot in part.state.values() for value in slot.values()]
    return [value for value in slots if isinstance(value, Tensor)]
