"""The average of a retraining's weights: when it begins, how it grows, and evaluating with it.

When the validation loss has not improved for a while, the weights of all later steps are averaged,
and from then on the average is what is evaluated:

    start when  L_valid > min(L_valid of all earlier epochs but the last 5)
    average     a_n = a_{n-1} + (w_n - a_{n-1}) / n

SGD itself goes on from its own weights. Source: paper, A.2.2; Merity et al., 2017.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class AveragedWeights:
    """Some weights, their average, and the validation losses that say when it begins."""

    def __init__(self, weights: list[Tensor], patience: int) -> None:
        self.weights, self.patience = weights, patience
        self.averages = [weight.detach().clone() for weight in weights]
        self.averaged_steps, self.averaging = 0, False
        self.valid_losses: list[float] = []

    def average(self) -> None:
        """Add the weights of the step just taken, if averaging has begun."""
        if self.averaging:
            self.averaged_steps += 1
            with torch.no_grad():
                torch._foreach_lerp_(self.averages, self.weights, 1 / self.averaged_steps)

    def heard(self, valid_loss: float) -> None:
        """Take in an epoch's validation loss; averaging begins when the losses have stalled."""
        if stalled(self.valid_losses, valid_loss, self.patience):
            self.averaging = True
        self.valid_losses.append(valid_loss)

    @contextmanager
    def averages_in_place(self) -> Iterator[None]:
        """Let the network have the averaged weights, if there are any, and its own afterwards."""
        if not self.averaged_steps:
            yield
            return
        own = [weight.detach().clone() for weight in self.weights]
        with torch.no_grad():
            torch._foreach_copy_(self.weights, self.averages)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.weights, own)

    def average_state(self) -> dict[str, Any]:
        """Return the average and all that its going on depends on."""
        return {
            "averages": self.averages,
            "averaged_steps": self.averaged_steps,
            "averaging": self.averaging,
            "valid_losses": list(self.valid_losses),
        }

    def restore_average(self, state: Mapping[str, Any]) -> None:
        """Put a stored average back, bit for bit."""
        for average, value in zip(self.averages, state["averages"], strict=True):
            average.copy_(value)
        self.averaged_steps, self.averaging = state["averaged_steps"], state["averaging"]
        self.valid_losses = list(state["valid_losses"])


def stalled(losses: Sequence[float], newest: float, patience: int) -> bool:
    """Say whether `newest` is worse than the best of `losses` without their last `patience`.

    The non-monotone rule: one bad epoch is no sign, since SGD's loss goes up and down.
    """
    return len(losses) > patience and newest > min(losses[:-patience])
