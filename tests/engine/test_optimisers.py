"""Schedules, the guard, the layouts that fused optimisers read, and the parts of a run's state."""

import copy
import math

import pytest
import torch
from same_bits import bits
from torch import Tensor, nn

from darts_lib.engine.optimisers import (
    FiniteGuard,
    Part,
    cosine,
    laid_out_like,
    load,
    momentum_sgd,
    stored,
    tensors_of,
)


@pytest.mark.parametrize(("epoch", "epochs", "last", "rate"), [
    # The rates that PyTorch's CosineAnnealingLR gives the original code (25e-3 at the start).
    (0, 50, 0.001, 0.025), (1, 50, 0.001, 0.02497632074113926), (25, 50, 0.001, 0.013),
    (49, 50, 0.001, 0.0010236792588607412),
    (0, 600, 0.0, 0.025), (599, 600, 0.0, 1.7134690716569257e-07),
])  # fmt: skip
def test_the_cosine_has_the_published_rates(
    epoch: int, epochs: int, last: float, rate: float
) -> None:
    assert cosine(epoch, epochs, 0.025, last) == pytest.approx(rate, rel=1e-9)


def watched(*losses_and_norms: tuple[float, float]) -> FiniteGuard:
    guard = FiniteGuard(torch.device("cpu"))
    for loss, norm in losses_and_norms:
        optimiser = torch.optim.SGD([torch.ones(1, requires_grad=True)], 0.1, fused=True)
        guard.watch(optimiser, torch.tensor(loss), torch.tensor(norm))
        assert float(optimiser.found_inf) == (not math.isfinite(norm))
        guard.count()
    return guard


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_the_first_bad_step_is_named_with_loss_rate_and_folder(norm: float) -> None:
    watched((2.3, 1.0), (math.nan, 0.0)).check(7, 0.02497, "runs/mine")  # a sound one goes on
    guard = watched((2.3, 1.0), (2.25, norm), (math.nan, norm))
    words = r"^the gradient was no number in step 2 of epoch 7 \(loss 2.25, learning rate 0.02497\)"
    with pytest.raises(FloatingPointError, match=f"{words}.*kept in runs/mine"):
        guard.check(7, 0.02497, "runs/mine")
    guard.begin()
    guard.check(8, 0.02, "runs/mine")


def ends(gradient: Tensor, start: Tensor) -> list[Tensor]:
    """Return where a weight laid out like `start` ends after a fused and after a plain step."""
    found = []
    for fused in (True, False):
        weight = start.clone().requires_grad_()
        assert weight.stride() == start.stride()
        weight.grad = laid_out_like(gradient, weight)
        assert torch.equal(weight.grad, gradient)
        torch.optim.SGD([weight], 0.1, 0.9, fused=fused).step()
        found.append(weight.detach())
    return found


def test_a_gradient_takes_the_layout_that_fused_sgd_reads() -> None:
    torch.manual_seed(0)
    gradient, start = torch.randn(2, 4, 3, 2, 2)
    start = start.contiguous(memory_format=torch.channels_last)
    assert laid_out_like(gradient, start).stride() == start.stride() != gradient.stride()
    torch.testing.assert_close(*ends(gradient, start))
    assert laid_out_like(gradient, torch.zeros_like(gradient)) is gradient
    # Strides of dimensions of one do not count, as of a pointwise convolution.
    gradient = torch.randn(6, 3).as_strided((6, 3, 1, 1), (3, 1, 1, 1))
    start = torch.randn(6, 3, 1, 1).as_strided((6, 3, 1, 1), (3, 1, 3, 3))
    assert laid_out_like(gradient, start) is gradient
    torch.testing.assert_close(*ends(gradient, start))


def part(kind: str, seed: int) -> tuple[Part, list[Tensor]]:
    """Return a part of a state, and all tensors that a step of it changes."""
    torch.manual_seed(seed)
    net = nn.BatchNorm1d(3)
    weights = list(net.parameters())
    for weight in weights:
        nn.init.normal_(weight)
        weight.grad = torch.randn(3)
    if kind == "module":
        net(torch.randn(4, 3))
        return net, [*weights, *net.buffers()]
    if kind == "mapping":
        return net._parameters, weights
    optimiser: torch.optim.Optimizer = torch.optim.Adam(weights, 0.1, fused=True)
    if kind == "sgd":
        optimiser = momentum_sgd(weights, torch.tensor(0.5 + seed), 0.9, 0.1)
        made = [optimiser.state[weight]["momentum_buffer"] for weight in weights]
        assert not torch.stack(made).any(), "a step never makes state"
    optimiser.step()
    slots = ("momentum_buffer",) if kind == "sgd" else ("step", "exp_avg", "exp_avg_sq")
    return optimiser, [optimiser.state[weight][name] for weight in weights for name in slots]


@pytest.mark.parametrize("kind", ["module", "mapping", "sgd", "adam"])
def test_a_part_is_stored_loaded_bit_for_bit_and_listed(kind: str) -> None:
    first, tensors = part(kind, 0)
    second, others = part(kind, 1)
    assert bits(stored(second)) != bits(stored(first))
    load(second, copy.deepcopy(stored(first)))
    assert bits(stored(second)) == bits(stored(first))
    assert not any(tensor.requires_grad for tensor in stored(first).values() if kind == "mapping")
    assert sorted(map(id, tensors_of(first))) == sorted(map(id, tensors))
    if kind in ("module", "mapping"):  # in place: what holds these tensors sees the change
        assert sorted(map(id, tensors_of(second))) == sorted(map(id, others))


def test_a_loaded_optimiser_follows_the_rate_again() -> None:
    weight, rate = torch.ones(1, requires_grad=True), torch.tensor(0.5)
    optimiser = momentum_sgd([weight], rate, 0.0, 0.0)
    state = copy.deepcopy(stored(optimiser))
    state["param_groups"][0]["lr"] = torch.tensor(0.25)
    load(optimiser, state)
    assert float(rate) == 0.25, "which the inner step and the epoch's row read"
    rate.fill_(0.125)
    weight.grad = torch.ones(1)
    optimiser.step()
    assert weight.tolist() == [1 - 0.125]


@pytest.mark.parametrize("here", [True, False])
def test_whether_a_graph_may_hold_the_step_is_this_runs_matter(here: bool) -> None:
    def adam(capturable: bool) -> torch.optim.Adam:
        weight = torch.ones(1, requires_grad=True)
        return torch.optim.Adam([weight], 0.1, fused=True, capturable=capturable)

    loaded = adam(here)
    load(loaded, stored(adam(not here)))
    assert loaded.param_groups[0]["capturable"] is here
