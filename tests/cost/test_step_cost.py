"""Counting by hand on fake tensors; nothing is changed; memory as the system measures it."""

import sys
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from darts_lib.cost.step_cost import StepCost, _Recorder, trace
from darts_lib.retrain_step import RetrainConfig, RetrainStep
from darts_lib.search_settings import SearchConfig
from darts_lib.search_step import SearchStep
from darts_lib.tools.resident_memory import measured_memory
from darts_lib.tools.step_sizes import Size, random_step

CPU = torch.device("cpu")


def cost_of(step: Callable[[Tensor], object], size: int = 1000) -> StepCost:
    return trace(torch.ones(size), step)


def names(cost: StepCost) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for call, count in cost.calls.items():
        counts[str(call.operation)] += count
    return counts


def test_operations_and_bytes_by_hand() -> None:
    cost = cost_of(lambda x: (x * x + x).sum())
    assert names(cost) == {"aten.mul.Tensor": 1, "aten.add.Tensor": 1, "aten.sum.default": 1}
    assert cost.operations == 3
    assert cost.touched_bytes == 3 * 4000 + 3 * 4000 + 4004
    # The product is freed only after the sum of both was made.
    assert cost.peak_bytes == 2 * 4000


def test_views_and_empty_tensors_cost_nothing() -> None:
    cost = cost_of(lambda x: [x[2:], x.view(10, 100).t(), torch.empty(7)])
    assert cost.operations == 0
    assert cost.peak_bytes == 7 * 4


def test_a_storage_counts_once_and_until_it_is_freed() -> None:
    def step(x: Tensor) -> None:
        for _ in range(5):
            kept = (x + 1).view(10, 100)
        assert kept.shape == (10, 100)

    cost = cost_of(step)
    assert names(cost) == {"aten.add.Tensor": 5}
    assert cost.peak_bytes == 2 * 4000, "the old one lives until the new one is there"


def test_the_same_operation_on_another_shape_is_another_call() -> None:
    cost = cost_of(lambda x: [x + 1, x + 1, x[:10] + 1])
    assert sorted(cost.calls.values()) == [1, 2]


def test_the_backward_pass_and_what_it_keeps_are_counted() -> None:
    def step(x: Tensor) -> None:
        w = torch.ones(1000, requires_grad=True)
        torch.autograd.grad((x * w).exp().sum(), w)

    cost = cost_of(step)
    assert names(cost)["aten.mul.Tensor"] == 3  # forward, and exp's and the product's derivatives
    # Forward: w, the product, the exponential. Backward: w, the exponential, its gradient;
    # then w and both gradients. So three at a time, and the scalars of the sum and its gradient.
    assert cost.peak_bytes == 3 * 4000 + 8


def test_a_step_on_real_tensors_counts_as_on_fake_ones() -> None:
    """The overhead of an operation is found on real ones."""

    def step(x: Tensor) -> None:
        w = torch.ones(1000, requires_grad=True)
        torch.autograd.grad((x * w).exp().sum(), w)

    given = torch.ones(1000)
    with (recorder := _Recorder()):
        step(given)
    assert recorder.cost.calls == cost_of(step).calls


def test_seconds_are_counts_times_the_time_of_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StepCost, "_time", lambda *_: (2.0, None))
    monkeypatch.setattr("darts_lib.cost.step_cost._overhead", lambda _: 0.25)
    assert cost_of(lambda x: [x + 1, x + 1, x * 2]).seconds(CPU) == 3 * 2.25


def test_each_kind_of_argument_can_be_timed() -> None:
    def step(x: Tensor) -> None:
        torch.cat([x[:8].view(2, 4).t(), torch.ones(4, 3)], dim=1)
        x.expand(3, 1000).sum()
        x[torch.tensor([1, 2])].bfloat16()
        nn.functional.cross_entropy(x.view(10, 100), torch.zeros(10, dtype=torch.long))

    assert cost_of(step).seconds(CPU) > 0


def tiny(**given: object) -> SearchStep:
    settings = {"scale": "laptop", "channels": 2, "layers": 3, "nodes": 2, "batch_size": 8}
    return SearchStep(SearchConfig.create(**{**settings, **given}), 10, (1, 8, 8), CPU)


def search_step(run: SearchStep) -> None:
    images, labels = torch.randn(8, 1, 8, 8), torch.zeros(8, dtype=torch.long)
    run.eager_step(images, labels, images, labels)


@pytest.mark.parametrize("run", ["search", "retraining"])
def test_a_step_under_autocast_can_be_timed(run: str) -> None:
    """It could not: fake tensors tell a normalisation's statistics in another type."""
    if run == "search":
        cost = trace(tiny(amp="on", order=2), search_step)
    else:
        given = {"scale": "laptop", "channels": 2, "layers": 3, "amp": "on"}
        step = RetrainStep(RetrainConfig.create(**given), 10, 1, CPU)
        cost = trace(step, lambda twin: twin.eager_step(torch.ones(8, 1, 8, 8), torch.arange(8)))
    assert 0 < cost.seconds(CPU, recorded=True) < cost.seconds(CPU) * 3  # both as timed


def test_tracing_and_timing_change_nothing() -> None:
    run = tiny()
    before = [tensor.detach().clone() for tensor in run._changed()]
    state = torch.get_rng_state()
    cost = trace(run, search_step)
    assert torch.equal(torch.get_rng_state(), state)
    cost.seconds(CPU)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(before, run._changed(), strict=True))
    assert all(weight.grad is None for weight in run.weights.values())


def test_second_order_costs_more_and_recomputing_holds_less() -> None:
    first, second = trace(tiny(order=1), search_step), trace(tiny(order=2), search_step)
    again = trace(tiny(order=2, recompute=True), search_step)
    assert 1.8 < second.operations / first.operations < 3
    assert again.operations > second.operations
    assert again.peak_bytes < 0.8 * second.peak_bytes


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
@pytest.mark.parametrize("recompute", [False, True])
def test_the_estimate_is_within_a_fifth_of_the_memory_that_the_system_measures(
    recompute: bool,
) -> None:
    size = Size(8, 4, 16, 48)
    run = size.start(CPU, recompute=recompute)
    estimate = trace(run, partial(random_step, size)).memory(CPU)
    assert estimate == pytest.approx(measured_memory(size, CPU, recompute), rel=0.2)
