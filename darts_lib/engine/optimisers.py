"""Optimisers and schedules of a run, the guard of its gradients, and the parts of its state."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class FiniteGuard:
    """Leaves an update out where its gradient is no number, and tells the run later.

    Asking the device after each step would make it wait. So the update is dropped there, (step,
    loss, norm) of the first bad one is noted there, and the host reads the note now and then.
    """

    def __init__(self, device: torch.device) -> None:
        self.steps = torch.zeros((), device=device)
        self.first = torch.zeros(3, device=device)
        self.state = [self.steps, self.first]

    def begin(self) -> None:
        """Count an epoch's steps from 0."""
        torch._foreach_zero_(self.state)

    def watch(self, optimiser: Optimizer, loss: Tensor, norm: Tensor) -> None:
        """Let `optimiser`, a fused one, skip its next step where `norm`, its gradient's, is bad.

        The fused kernels read `found_inf`, which torch's GradScaler sets for the same purpose.
        """
        bad = ~torch.isfinite(norm)
        noted = torch.stack([self.steps + 1, loss.detach().to(self.first), norm.to(self.first)])
        self.first.copy_(torch.where(bad & (self.first[0] == 0), noted, self.first))
        optimiser.found_inf = bad.to(torch.float32)  # type: ignore[attr-defined]

    def count(self) -> None:
        """Say that a step is done."""
        self.steps += 1

    def check(self, epoch: int, learning_rate: float, folder: object) -> None:
        """Raise FloatingPointError if a gradient was no number; name step, loss, rate and norm."""
        step, loss, norm = self.first.tolist()
        if step:
            what = "gradient" if math.isfinite(loss) else "loss"
            raise FloatingPointError(
                f"the {what} was no number in step {step:.0f} of epoch {epoch} (loss {loss:.4g}, "
                f"learning rate {learning_rate:.4g}), norm of the gradient {norm:.4g}; the "
                f"checkpoint before it is kept in {folder}. Try a lower learning rate in a new "
                "run_dir."
            )


Part = nn.Module | Optimizer | Mapping[str, Tensor]
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

    torch's fused SGD reads both as they lie, and says nothing where the orders differ (torch 2.14).
    """
    strides = zip(gradient.shape, gradient.stride(), weight.stride(), strict=True)
    if all(size == 1 or ours == its for size, ours, its in strides):  # in size one is no step
        return gradient
    return torch.empty_like(weight).copy_(gradient)


def stored(part: Part) -> dict[str, Any]:
    """Return what a checkpoint keeps of a part."""
    if isinstance(part, Mapping):
        return {name: tensor.detach() for name, tensor in part.items()}
    return part.state_dict()


def load(part: Part, state: Mapping[str, Any]) -> None:
    """Put back what `stored` returned, bit for bit.

    An optimiser's rate stays the tensor that the schedule changes. Whether a graph may hold the
    step is this run's matter: one that began on a CPU may go on where its steps are recorded.
    """
    if isinstance(part, nn.Module):
        part.load_state_dict(state)
    elif isinstance(part, Mapping):
        with torch.no_grad():
            for name, tensor in part.items():
                tensor.copy_(state[name])
    else:
        ours = part.param_groups[0]
        part.load_state_dict(dict(state))
        group = part.param_groups[0]
        if isinstance(ours["lr"], Tensor):
            group["lr"] = ours["lr"].copy_(torch.as_tensor(group["lr"]))
        if "capturable" in ours:
            group["capturable"] = ours["capturable"]


def tensors_of(part: Part) -> list[Tensor]:
    """Return the tensors of a part, which a step may change in place."""
    if isinstance(part, nn.Module):
        return [*part.parameters(), *part.buffers()]
    if isinstance(part, Mapping):
        return list(part.values())
    slots = [value for slot in part.state.values() for value in slot.values()]
    return [value for value in slots if isinstance(value, Tensor)]
