"""A gradient that is no number: its update is left out on the device, and the run told later.

Asking the device after each step whether all went well would make it wait. So the update is
dropped there, what happened first is noted there, and the host reads the note now and then.
"""

import math

import torch
from torch import Tensor
from torch.optim import Optimizer

EVERY = 50
"""Steps between two looks at the note."""


class FiniteGuard:
    """Watches a run's gradients; `state` holds (step, loss, norm) of the first bad one."""

    def __init__(self, device: torch.device) -> None:
        self.steps = torch.zeros((), device=device)
        self.first = torch.zeros(3, device=device)

    @property
    def state(self) -> list[Tensor]:
        """Return the tensors that a step changes."""
        return [self.steps, self.first]

    def begin(self) -> None:
        """Count an epoch's steps from 0."""
        self.steps.zero_()
        self.first.zero_()

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
            what = "loss" if not math.isfinite(loss) else "gradient"
            raise FloatingPointError(
                f"the {what} was no number in step {step:.0f} of epoch {epoch} (loss {loss:.4g}, "
                f"learning rate {learning_rate:.4g}), norm of the gradient {norm:.4g}; the "
                f"checkpoint before it is kept in {folder}. Try a lower learning rate in a new "
                "run_dir."
            )
