"""What searching and retraining share: figures of a batch, the cosine, optimisers."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from darts_lib.engine.refusals import SettingsError


def figures(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (summed cross-entropy, correct, count) on the device, without waiting for it.

    Sums, not means: batches of different sizes are then weighted rightly.
    """
    loss = F.cross_entropy(logits, labels, reduction="sum")
    correct = (logits.argmax(dim=1) == labels).sum()
    return torch.stack([loss, correct.to(loss), torch.full_like(loss, len(labels))])


def cosine(epoch: int, epochs: int, first: float, last: float) -> float:
    """Return the learning rate of epoch 0, 1, ... `epochs - 1`: a cosine from `first` to `last`.

    The first epoch has exactly `first`; `last` would be that of the epoch after the final one.
    """
    return last + (first - last) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def chance_warning(history: Sequence[Mapping[str, Any]], classes: int) -> list[str]:
    """Warn if the training loss never left the loss of guessing, ln(classes)."""
    lowest = min(row["train_loss"] for row in history)
    if lowest > 0.98 * math.log(classes):
        return [
            f"the training loss stayed at chance, ln({classes}) = {math.log(classes):.3f}; "
            "train longer, or look at the learning rate and the data."
        ]
    return []


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


def follow(optimiser: torch.optim.Optimizer, rate: Tensor) -> None:
    """Make an optimiser that was just loaded follow `rate` again, with the value it was stored."""
    group = optimiser.param_groups[0]
    rate.copy_(torch.as_tensor(group["lr"]))
    group["lr"] = rate


def load_adam(optimiser: torch.optim.Adam, state: dict[str, Any], capturable: bool) -> None:
    """Load an Adam's state; whether a graph may hold it is this run's matter, not the stored one's.

    A search that began on a CPU may go on where its steps are recorded.
    """
    optimiser.load_state_dict(state)
    for group in optimiser.param_groups:
        group["capturable"] = capturable


class Restorable(Protocol):
    """A search or a retraining: what takes a stored state back."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put a stored state back, bit for bit."""


def restore(run: Restorable, state: Mapping[str, Any], folder: Path) -> None:
    """Put back the state of a checkpoint in `folder`; say so if it is of another network."""
    try:
        run.restore(state)
    except (KeyError, RuntimeError, ValueError) as error:
        first = str(error).partition("\n")[0]
        raise SettingsError(
            f"the checkpoint in {folder} is of a network with other weights than this version of "
            f"darts_lib builds ({first}); use the version that made it, or another run_dir."
        ) from error
