"""The architecture gradient: four routes, an independent judge, and every known wrong formula."""

import itertools
import subprocess
import sys
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from darts_lib.bilevel import (
    ROUTES,
    ArchitectureGradient,
    InnerStep,
    Tensors,
    architecture_gradient,
)
from darts_lib.teaching.gradient_bugs import BUGS, right
from darts_lib.teaching.smooth_problem import (
    check_architecture_gradient,
    relative_error,
    slope,
    smooth_problem,
)

SECOND_ORDER = ("finite_difference", "exact", "unrolled")
both_rates = pytest.mark.parametrize("rate", [0.025, 0.5])


def leaf(*values: float) -> Tensor:
    return torch.tensor(values or 0.0, dtype=torch.float64, requires_grad=True)


@cache
def exact(rate: float) -> ArchitectureGradient:
    return architecture_gradient(*smooth_problem(rate).arguments, route="exact")


def toy(route: str, rate: float, alpha: float, w: float) -> ArchitectureGradient:
    """Return that of the paper's figure 2: L_val = a w - 2 a + 1, L_train = w^2 - 2 a w + a^2."""
    return architecture_gradient(
        lambda w, a: (w["w"] ** 2 - 2 * a["a"] * w["w"] + a["a"] ** 2).sum(),
        lambda w, a: (a["a"] * w["w"] - 2 * a["a"] + 1).sum(),
        {"w": leaf(w)}, {"a": leaf(alpha)}, InnerStep(rate, 0.0, 0.0), route,
    )  # fmt: skip


@pytest.mark.parametrize("route", SECOND_ORDER)
def test_toy_formula(route: str) -> None:
    """At the paper's start (2, -2) with a rate of 1/2 the terms are 0 and 2, the first order's -4.

    w' = w - 2 rate (w - a); the terms are w' - 2 and 2 rate a.
    """
    for rate, (a, w) in itertools.product((0.1, 0.5, 0.9), ((2.0, -2.0), (0.3, 1.7))):
        found, virtual = toy(route, rate, a, w), w - 2 * rate * (w - a)
        terms = [float(x) for x in (found.direct["a"], found.implicit["a"], found.valid_loss)]
        expected = [virtual - 2, 2 * rate * a, a * virtual - 2 * a + 1]
        assert terms == pytest.approx(expected, abs=1e-10)
        assert float(toy("first_order", rate, a, w).total["a"]) == w - 2


@pytest.mark.parametrize("route", ROUTES)
def test_a_frozen_weight_is_a_constant(route: str) -> None:
    """L_val = a (w + u), L_train = (w - a)^2 + (u - a)^2: only a free weight moves, and adds 2 r a.

    It is neither decayed nor pushed by its momentum.
    """
    rate, a, at, m = 0.1, 0.7, {"w": 1.5, "u": -0.4}, {"w": 0.3, "u": -2.0}
    inner = InnerStep(rate, 0.9, 0.2, {name: leaf(value) for name, value in m.items()})
    moves = {name: 2 * (x - a) + 0.2 * x + 0.9 * m[name] for name, x in at.items()}
    for free in ("wu", "w", "u", ""):
        found = architecture_gradient(
            lambda w, a: (w["w"] - a["a"]) ** 2 + (w["u"] - a["a"]) ** 2,
            lambda w, a: a["a"] * (w["w"] + w["u"]),
            {name: leaf(x).requires_grad_(name in free) for name, x in at.items()},
            {"a": leaf(a)}, inner, route,
        )  # fmt: skip
        moved = [] if route == "first_order" else list(free)
        direct = sum(at.values()) - rate * sum(moves[name] for name in moved)
        terms = [float(found.direct["a"]), float(found.implicit["a"])]
        assert terms == pytest.approx([direct, 2 * rate * a * len(moved)], abs=1e-10), free


@both_rates
def test_exact_and_unrolled_agree(rate: float) -> None:
    unrolled = architecture_gradient(*smooth_problem(rate).arguments, route="unrolled")
    for term in ("direct", "implicit", "total"):
        assert relative_error(getattr(unrolled, term), getattr(exact(rate), term)) < 1e-10


@both_rates
def test_both_agree_with_central_differences_of_the_objective(rate: float) -> None:
    problem = smooth_problem(rate)
    for kind, total in exact(rate).total.items():
        for entry in range(0, total.numel(), 11):
            row, column = divmod(entry, total.shape[1])
            size = float(total.abs().max())
            expected = pytest.approx(float(total[row, column]), abs=1e-6 * size)
            assert slope(problem, kind, row, column) == expected


@both_rates
def test_finite_difference_and_its_square_law(rate: float) -> None:
    given = (*smooth_problem(rate).arguments, "finite_difference")
    found = [architecture_gradient(*given, radius).implicit for radius in (1e-2, 1e-3, 1e-4)]
    errors = [relative_error(implicit, exact(rate).implicit) for implicit in found]
    assert errors[1] < 1e-4
    assert 80 < errors[0] / errors[1] < 120
    assert 80 < errors[1] / errors[2] < 120


@pytest.mark.parametrize("route", ROUTES)
def test_weights_and_gradients_are_left_alone(route: str) -> None:
    """Also when a loss raises."""
    problem = smooth_problem()
    before = {name: weight.detach().clone() for name, weight in problem.weights.items()}
    architecture_gradient(*problem.arguments, route=route)
    broken = replace(problem, valid_loss=lambda weights, alphas: torch.tensor(1 / 0))
    with pytest.raises(ZeroDivisionError):
        architecture_gradient(*broken.arguments, route=route)
    assert all(torch.equal(problem.weights[name], value) for name, value in before.items())
    assert all(value.grad is None for part in problem.arguments[2:4] for value in part.values())


class Spy(torch.autograd.Function):
    """A product that notes which gradients its backward pass is to compute."""

    seen: list[tuple[bool, ...]]

    @staticmethod
    def forward(ctx: Any, weight: Tensor, alpha: Tensor) -> Tensor:
        ctx.save_for_backward(weight, alpha)
        return weight * alpha

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        Spy.seen.append(ctx.needs_input_grad)
        weight, alpha = ctx.saved_tensors
        return grad * alpha, grad * weight


@pytest.mark.parametrize(("route", "wanted"), [
    ("first_order", [(False, True)]),
    ("finite_difference", [(True, False), (True, True), (False, True), (False, True)]),
])  # fmt: skip
def test_no_pass_computes_an_unused_gradient(route: str, wanted: list[tuple[bool, bool]]) -> None:
    """Such as one by the weights where the alphas' is wanted; a `Function` does not see that."""
    loss = lambda weights, alphas: Spy.apply(weights["w"], alphas["a"]).square().sum()  # noqa: E731
    Spy.seen = []
    architecture_gradient(loss, loss, {"w": leaf(1.5)}, {"a": leaf(0.5)}, InnerStep(0.1), route)
    assert Spy.seen == wanted


@pytest.mark.parametrize("route", SECOND_ORDER)
def test_a_zero_validation_gradient_gives_a_zero_correction(route: str) -> None:
    found = architecture_gradient(
        lambda w, a: (w["w"] * a["a"]).square().sum(),
        lambda w, a: (w["w"] * 0.0).sum() + a["a"].sum(),
        {"w": leaf(0.3, -2.0)}, {"a": leaf(1.5, 0.7)}, InnerStep(0.1), route,
    )  # fmt: skip
    assert (found.implicit["a"].tolist(), found.direct["a"].tolist()) == ([0, 0], [1, 1])


def test_an_unknown_route_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown route 'second'; choose one of first_order"):
        architecture_gradient(*smooth_problem().arguments, route="second")


def test_the_library_passes_its_own_check() -> None:
    for formula in (right, *(partial(architecture_gradient, route=r) for r in SECOND_ORDER[1:])):
        check_architecture_gradient(formula)


@pytest.mark.parametrize("name", BUGS)
def test_every_known_wrong_formula_fails_the_check(name: str) -> None:
    found = BUGS[name](*smooth_problem(0.5).arguments)
    for term in ("implicit", "total"):
        assert relative_error(getattr(found, term), getattr(exact(0.5), term)) > 1e-3
    with pytest.raises(AssertionError, match="term is off"):
        check_architecture_gradient(lambda *_: found)


def test_weights_that_are_not_put_back_fail_the_check() -> None:
    def careless(*arguments: Any) -> ArchitectureGradient:
        found = right(*arguments)
        with torch.no_grad():
            for weight in arguments[2].values():
                weight.add_(1e-3).sub_(1e-3)
        return found

    with pytest.raises(AssertionError, match="not put back"):
        check_architecture_gradient(careless)


def precisions() -> list[str]:
    backends = torch.backends
    places = [backends.cuda.matmul, backends.cudnn, backends.mkldnn]
    found = [places[0], *(getattr(p, part) for p in places[1:] for part in ("conv", "rnn"))]
    return [place.fp32_precision for place in (*found, backends.mkldnn.matmul)]


def test_perturbed_passes_are_ieee_float32_without_autocast() -> None:
    """Inside; outside all is as before."""
    seen: list[tuple[bool, set[str]]] = []

    def train(weights: Tensors, alphas: Tensors) -> Tensor:
        seen.append((torch.is_autocast_enabled("cpu"), set(precisions())))
        return (weights["w"] * alphas["a"]).square().sum()

    before, valid = precisions(), lambda w, a: w["w"].square().sum()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        architecture_gradient(train, valid, {"w": leaf(1)}, {"a": leaf(2)}, InnerStep(0.1))
        assert torch.is_autocast_enabled("cpu"), "autocast is put back"
    assert precisions() == before, "what the caller allowed is put back"
    assert seen == [(True, set(before)), (False, {"ieee"}), (False, {"ieee"})]


ALLOWED = {
    "the older names": "torch.backends.cuda.matmul.allow_tf32 = True",
    "the newer names": "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    "one convolution": "torch.backends.cudnn.conv.fp32_precision = 'ieee'",
    "all at once": "torch.backends.fp32_precision = 'tf32'",
    "bfloat16 products": "torch.set_float32_matmul_precision('medium')",
}


@pytest.mark.deep
@pytest.mark.parametrize("how", ALLOWED)
def test_perturbed_passes_are_ieee_float32_whatever_was_allowed(how: str) -> None:
    """In a process of its own: torch refuses to mix the older and the newer names."""
    test = "test_bilevel.test_perturbed_passes_are_ieee_float32_without_autocast()"
    code = f"import torch, test_bilevel\n{ALLOWED[how]}\n{test}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)


def test_float32_is_enough_for_the_perturbed_passes_and_bfloat16_is_not() -> None:
    errors = []
    for dtype in (torch.float32, torch.bfloat16):
        found = architecture_gradient(*smooth_problem(dtype=dtype).arguments)
        implicit = {kind: value.double() for kind, value in found.implicit.items()}
        errors.append(relative_error(implicit, exact(0.5).implicit))
    assert errors[0] < 1e-2 < 0.5 < errors[1]


@pytest.mark.parametrize("share", [0.2, 3.0])
def test_all_routes_agree_with_a_training_loss_scaled_by_the_clip(share: float) -> None:
    """With `share` of the norm the coefficient is a constant factor of the training loss, or 1."""
    plain = smooth_problem(0.5)
    loss = plain.train_loss(plain.weights, plain.alphas)
    norm = nn.utils.get_total_norm(torch.autograd.grad(loss, list(plain.weights.values())))
    problem = replace(plain, inner=replace(plain.inner, clip=share * float(norm)))
    scaled = replace(plain, train_loss=lambda w, a: min(1.0, share) * plain.train_loss(w, a))
    expected = architecture_gradient(*scaled.arguments, route="exact")
    for route in SECOND_ORDER:
        found = architecture_gradient(*problem.arguments, route, 1e-3)
        for term in ("direct", "implicit"):
            assert relative_error(getattr(found, term), getattr(expected, term)) < 1e-4
    if share < 1:
        assert relative_error(expected.implicit, exact(0.5).implicit) > 0.1, "it matters"
