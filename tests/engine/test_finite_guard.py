"""What the guard notes on the device, and what it says of it."""

import pytest
import torch

from darts_lib.engine.optimisers import FiniteGuard


def watched(*losses_and_norms: tuple[float, float]) -> FiniteGuard:
    guard = FiniteGuard(torch.device("cpu"))
    for loss, norm in losses_and_norms:
        optimiser = torch.optim.SGD([torch.ones(1, requires_grad=True)], 0.1, fused=True)
        guard.watch(optimiser, torch.tensor(loss), torch.tensor(norm))
        assert float(optimiser.found_inf) == (not 0 <= norm < float("inf"))  # type: ignore[attr-defined]
        guard.count()
    return guard


def test_a_sound_run_is_not_stopped() -> None:
    watched((2.3, 1.0), (float("nan"), 0.0)).check(1, 0.1, "runs/mine")


@pytest.mark.parametrize("norm", [float("nan"), float("inf")])
def test_the_first_bad_step_is_named_with_loss_rate_and_folder(norm: float) -> None:
    guard = watched((2.3, 1.0), (2.25, norm), (float("nan"), norm))
    with pytest.raises(FloatingPointError) as caught:
        guard.check(7, 0.02497, "runs/mine")
    message = str(caught.value)
    assert message.startswith("the gradient was no number in step 2 of epoch 7 (loss 2.25, ")
    assert "learning rate 0.02497" in message
    assert "kept in runs/mine" in message
    guard.begin()
    guard.check(8, 0.02, "runs/mine")
