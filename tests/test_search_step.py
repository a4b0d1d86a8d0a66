"""One step of a search: it never waits, changes its state in place, and skips a bad gradient."""

import copy
import gc
import math
import weakref
from typing import Any

import pytest
import torch
from step_tools import NoWaiting
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from darts_lib.bilevel import ROUTES, held
from darts_lib.data.images import Batch
from darts_lib.engine.refusals import SettingsError
from darts_lib.search_epoch import Search
from darts_lib.search_settings import SearchConfig
from darts_lib.tools.benchmark import both_gradients

TINY = {"channels": 2, "layers": 3, "nodes": 2, "batch_size": 8, "scale": "laptop"}


def started(**given: object) -> tuple[Search, Batch, Batch]:
    run = Search(SearchConfig.create(**{**TINY, **given}))
    train, valid = next(iter(run.batches(torch.Generator().manual_seed(0))))
    return run, train, valid


@pytest.mark.parametrize("route", ROUTES)
def test_nothing_in_a_step_waits_for_the_device(route: str) -> None:
    run, train, valid = started(route=route)
    with NoWaiting():
        run.step(train, valid)
        run.step(train, valid)


def test_the_mode_that_looks_for_waiting_finds_it() -> None:
    with pytest.raises(AssertionError, match="makes the host wait"), NoWaiting():
        float(torch.ones(()) + 1)


@pytest.mark.parametrize("route", ["first_order", "finite_difference"])
def test_a_step_changes_its_state_in_place_so_that_a_graph_can_hold_it(route: str) -> None:
    run, train, valid = started(route=route)
    run.step(train, valid)
    places = [tensor.data_ptr() for tensor in run._changed()]
    values = [tensor.detach().clone() for tensor in run._changed()]
    run.rate.fill_(0.01)
    run.step(train, valid)
    assert [tensor.data_ptr() for tensor in run._changed()] == places
    changed = [not torch.equal(a, b) for a, b in zip(values, run._changed(), strict=True)]
    assert sum(changed) > 0.9 * len(changed)


def test_what_a_step_changes_is_all_that_it_changes() -> None:
    """Put back, the next step gives the same bits: how a graph's warm-up leaves no trace."""
    run, train, valid = started()
    run.step(train, valid)
    before = [tensor.detach().clone() for tensor in run._changed()]
    ends = []
    for _ in range(2):
        run.step(train, valid)
        ends.append([tensor.detach().clone() for tensor in run._changed()])
        with torch.no_grad():
            for tensor, value in zip(run._changed(), before, strict=True):
                tensor.copy_(value)
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_the_rate_is_that_of_the_tensor() -> None:
    ends = []
    for rate in (0.0, 0.1):
        run, train, valid = started(order=1)
        start = [weight.detach().clone() for weight in run.weights.values()]
        run.rate.fill_(rate)
        run.step(train, valid)
        moved = [(a - b).abs().max() for a, b in zip(start, run.weights.values(), strict=True)]
        ends.append(float(torch.stack(moved).detach().max()))
    assert ends[0] == 0.0 < ends[1]


# A gradient that is no number ------------------------------------------------------------------


def spoilt(batch: Batch) -> Batch:
    images = batch[0].clone()
    images[0, 0, 0, 0] = math.nan
    return images, batch[1]


@pytest.mark.parametrize("route", ["first_order", "finite_difference"])
@pytest.mark.parametrize("bad", ["train", "valid"])
def test_a_bad_gradient_leaves_the_update_out_and_is_noted_once(bad: str, route: str) -> None:
    run, train, valid = started(route=route)
    run.guard.begin()
    run.step(train, valid)
    run.guard.check(1, 0.025, "here")
    kept = run.weights if bad == "train" else run.alphas
    states = (run.optimiser if bad == "train" else run.alpha_optimiser).state
    before = {name: value.detach().clone() for name, value in kept.items()}
    slots = [value.clone() for slot in states.values() for value in slot.values()]
    batches = (spoilt(train), valid) if bad == "train" else (train, spoilt(valid))
    for _ in range(2):
        run.step(*batches)
    assert all(torch.equal(kept[name], value) for name, value in before.items())
    now = [value for slot in states.values() for value in slot.values()]
    assert all(torch.equal(a, b) for a, b in zip(slots, now, strict=True))
    for value in (*run.weights.values(), *run.alphas.values()):
        assert torch.isfinite(value).all()
    with pytest.raises(
        FloatingPointError, match=r"step 2 of epoch 7 \(loss nan, learning rate 0\.5"
    ):
        run.guard.check(7, 0.5, "here")


def test_after_a_bad_step_a_good_one_moves_again() -> None:
    run, train, valid = started(order=1)
    run.step(spoilt(train), valid)
    before = {name: value.detach().clone() for name, value in run.weights.items()}
    run.step(train, valid)
    assert any(not torch.equal(run.weights[name], value) for name, value in before.items())


# Switches --------------------------------------------------------------------------------------


@pytest.mark.parametrize("switch", ["compile", "graph"])
@pytest.mark.parametrize("route", ["exact", "unrolled"])
def test_what_differentiates_twice_is_neither_compiled_nor_recorded(
    switch: str, route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("darts_lib.engine.settings.resolve_device", lambda _: torch.device("cuda"))
    with pytest.raises(SettingsError, match=f"{switch}='on' cannot be with route='{route}'"):
        SearchConfig.create(**TINY, route=route, **{switch: "on"})
    SearchConfig.create(**TINY, route="finite_difference", **{switch: "on"})


def test_bfloat16_gives_nearly_the_same_step() -> None:
    """Autocast on the CPU: the loss within 2 %, the alphas' gradient in the same direction."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for amp in ("off", "on"):
        run, train, valid = started(order=1, amp=amp, channels=4, batch_size=64)
        total = run.step(train, valid)
        gradients = [
            value.grad.flatten() for value in run.alphas.values() if value.grad is not None
        ]
        found[amp] = (total[0] / total[2], torch.cat(gradients))
        assert all(weight.dtype == torch.float32 for weight in run.weights.values())
    (loss, gradient), (near_loss, near_gradient) = found["off"], found["on"]
    assert not torch.equal(gradient, near_gradient), "autocast had no effect"
    assert float(near_loss) == pytest.approx(float(loss), rel=0.02)
    assert torch.cosine_similarity(gradient, near_gradient, dim=0) > 0.98


def test_the_perturbed_passes_stay_in_float32_under_amp() -> None:
    """By the types of what the supernet computes: only its two perturbed passes are float32."""
    run, train, valid = started(amp="on")
    types = []
    run.net.classifier.register_forward_pre_hook(lambda _, args: types.append(args[0].dtype))
    run.step(train, valid)
    low, full = torch.bfloat16, torch.float32
    assert types == [low, low, full, full, low]  # unrolling, validation, plus, minus, weights


@pytest.mark.parametrize(("order", "passes"), [(1, 1), (2, 3)], ids=["first order", "second order"])
def test_weight_gradients_are_computed_where_weights_need_them_and_nowhere_else(
    order: int, passes: int
) -> None:
    """First order: in the weights' pass. Second: also the virtual step's and the validation's."""
    run, train, valid = started(order=order)
    once, whole = WeightGradients(), WeightGradients()
    with once:
        both_gradients(run, train)
    with whole:
        run.step(train, valid)
    assert once.count > 0
    assert whole.count == passes * once.count


class WeightGradients(TorchDispatchMode):
    """Counts the convolutions' backward passes that compute a gradient by the weight."""

    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten.convolution_backward.default:
            self.count += args[-1][1]  # the mask of what is wanted: input, weight, bias
        return func(*args, **kwargs or {})


def test_casts_of_constant_weights_live_until_the_next_pass() -> None:
    """No node of the graph keeps them, and on CUDA branches may still read them backward."""
    run, train, _ = started(amp="on")
    with run.fast.autocast():
        loss = run.loss(train)(held(run.weights), run.alphas)
        kept = weakref.ref(run.read["classifier.weight"].untyped_storage())
        torch.autograd.grad(loss, list(run.alphas.values()))
        gc.collect()
        assert kept() is not None
        run.loss(train)(run.weights, run.alphas)
        gc.collect()
        assert kept() is None
        copy.deepcopy(run)  # as the price of a step does


@pytest.mark.parametrize("route", ROUTES)
def test_recomputing_a_cell_changes_no_gradient(route: str) -> None:
    ends = []
    for recompute in (False, True):
        run, train, valid = started(route=route, recompute=recompute)
        for _ in range(2):
            run.step(train, valid)
        ends.append([tensor.detach().clone() for tensor in run._changed()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


# A budget --------------------------------------------------------------------------------------


def test_a_budget_adds_its_gradient_to_that_of_the_validation_loss() -> None:
    weight = 3.0
    plain, train, valid = started(order=1)
    budget, *_ = started(order=1, madds_weight=weight)
    plain.step(train, valid)
    budget.step(train, valid)
    fresh, *_ = started()
    cost = fresh.madds(fresh.alphas)
    for kind, value in zip(
        fresh.alphas, torch.autograd.grad(cost, [*fresh.alphas.values()]), strict=True
    ):
        own, other = budget.alphas[kind].grad, plain.alphas[kind].grad
        assert own is not None
        assert other is not None
        torch.testing.assert_close(own - other, weight * value, rtol=1e-4, atol=1e-6)


def test_a_heavy_budget_makes_the_cell_cheaper() -> None:
    ends = {}
    for weight in (0.0, 1e4):
        run, train, valid = started(order=1, madds_weight=weight)
        for _ in range(20):
            run.step(train, valid)
        ends[weight] = float(run.madds(run.alphas).detach())
    assert ends[1e4] < 0.8 * ends[0.0]
