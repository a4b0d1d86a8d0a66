"""The architecture gradient: four routes, an independent one, and every known wrong formula."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from darts_lib.bilevel import (
    ROUTES,
    ArchitectureGradient,
    InnerStep,
    Tensors,
    architecture_gradient,
    moved_and_restored,
    route_of,
)
from darts_lib.relaxation import Supernet, initial_alphas
from darts_lib.teaching.gradient_bugs import BUGS, right
from darts_lib.teaching.smooth_problem import (
    SmoothProblem,
    check_architecture_gradient,
    relative_error,
    slope,
    smooth_problem,
)

SECOND_ORDER = ("finite_difference", "exact", "unrolled")


def toy(route: str, rate: float, alpha: float = 2.0, w: float = -2.0) -> ArchitectureGradient:
    """The paper's figure 2: L_val = a w - 2 a + 1, L_train = w^2 - 2 a w + a^2."""
    weights = {"w": torch.tensor(w, dtype=torch.float64, requires_grad=True)}
    alphas = {"a": torch.tensor(alpha, dtype=torch.float64, requires_grad=True)}
    return architecture_gradient(
        lambda w, a: w["w"] ** 2 - 2 * a["a"] * w["w"] + a["a"] ** 2,
        lambda w, a: a["a"] * w["w"] - 2 * a["a"] + 1,
        weights,
        alphas,
        InnerStep(rate, 0.0, 0.0),
        route,
    )


@pytest.mark.parametrize("route", SECOND_ORDER)
def test_toy_at_the_start(route: str) -> None:
    found = toy(route, 0.5)
    assert float(found.direct["a"]) == 0.0
    assert float(found.implicit["a"]) == pytest.approx(2.0, abs=1e-12)
    assert float(found.valid_loss) == pytest.approx(2.0 * 2.0 - 4.0 + 1.0)
    assert float(toy("first_order", 0.5).total["a"]) == -4.0


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("route", SECOND_ORDER)
def test_toy_formula(route: str, rate: float) -> None:
    for alpha, w in ((2.0, -2.0), (0.3, 1.7)):
        virtual = w - 2 * rate * (w - alpha)
        expected = (virtual - 2) + 2 * rate * alpha
        assert float(toy(route, rate, alpha, w).total["a"]) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(("route", "rate", "end"), [("first_order", 0.0, 2.0), ("exact", 0.5, 1.0)])
def test_toy_fixed_point(route: str, rate: float, end: float) -> None:
    alpha, w = 2.0, -2.0
    for _ in range(2000):
        alpha -= 0.05 * float(toy(route, rate, alpha, w).total["a"])
        w -= 0.1 * 2 * (w - alpha)
    assert (alpha, w) == pytest.approx((end, end), abs=1e-6)


@pytest.fixture(scope="module", params=[0.025, 0.5])
def problem(request: pytest.FixtureRequest) -> SmoothProblem:
    return smooth_problem(request.param)


@pytest.fixture(scope="module")
def exact(problem: SmoothProblem) -> ArchitectureGradient:
    return architecture_gradient(*problem.arguments, route="exact")


def test_exact_and_unrolled_agree(problem: SmoothProblem, exact: ArchitectureGradient) -> None:
    unrolled = architecture_gradient(*problem.arguments, route="unrolled")
    for term in ("direct", "implicit", "total"):
        assert relative_error(getattr(unrolled, term), getattr(exact, term)) < 1e-10


def test_both_agree_with_central_differences_of_the_objective(
    problem: SmoothProblem, exact: ArchitectureGradient
) -> None:
    for kind in ("normal", "reduce"):
        rows, columns = exact.total[kind].shape
        for entry in range(0, rows * columns, 7):
            row, column = divmod(entry, columns)
            measured = slope(problem, kind, row, column)
            size = float(exact.total[kind].abs().max())
            assert measured == pytest.approx(float(exact.total[kind][row, column]), abs=1e-6 * size)


def test_finite_difference_and_its_square_law(
    problem: SmoothProblem, exact: ArchitectureGradient
) -> None:
    errors = [
        relative_error(
            architecture_gradient(*problem.arguments, "finite_difference", radius).implicit,
            exact.implicit,
        )
        for radius in (1e-2, 1e-3, 1e-4)
    ]
    assert errors[1] < 1e-4
    for larger, smaller in zip(errors, errors[1:], strict=False):
        assert 80 < larger / smaller < 120


@pytest.mark.parametrize("route", ROUTES)
def test_weights_and_gradients_are_left_alone(problem: SmoothProblem, route: str) -> None:
    before = {name: weight.detach().clone() for name, weight in problem.weights.items()}
    architecture_gradient(*problem.arguments, route=route)
    for name, weight in problem.weights.items():
        assert torch.equal(weight, before[name])
        assert weight.grad is None
    assert all(alpha.grad is None for alpha in problem.alphas.values())


@pytest.mark.parametrize("route", SECOND_ORDER)
def test_weights_come_back_when_a_loss_raises(route: str) -> None:
    problem = smooth_problem()
    before = {name: weight.detach().clone() for name, weight in problem.weights.items()}

    def broken(weights: object, alphas: object) -> Tensor:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        architecture_gradient(
            problem.train_loss, broken, problem.weights, problem.alphas, problem.inner, route
        )
    for name, weight in problem.weights.items():
        assert torch.equal(weight, before[name])


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


@pytest.mark.parametrize(
    ("route", "asked"),
    [
        ("first_order", [(False, True)]),
        ("finite_difference", [(True, False), (True, True), (False, True), (False, True)]),
    ],
)
def test_no_pass_computes_a_gradient_that_is_thrown_away(
    route: str, asked: list[tuple[bool, bool]]
) -> None:
    """Such as one by the weights where the alphas' is wanted; a `Function` does not see that."""

    def loss(weights: Tensors, alphas: Tensors) -> Tensor:
        product: Tensor = Spy.apply(weights["w"], alphas["a"])
        return product**2

    Spy.seen = []
    w, a = torch.tensor(1.5, requires_grad=True), torch.tensor(0.5, requires_grad=True)
    architecture_gradient(loss, loss, {"w": w}, {"a": a}, InnerStep(0.1), route)
    assert Spy.seen == asked


@pytest.mark.parametrize("route", SECOND_ORDER)
def test_a_zero_validation_gradient_gives_a_zero_correction(route: str) -> None:
    weights = {"w": torch.randn(3, requires_grad=True)}
    alphas = {"a": torch.randn(3, requires_grad=True)}
    found = architecture_gradient(
        lambda w, a: (w["w"] * a["a"]).square().sum(),
        lambda w, a: (w["w"] * 0.0).sum() + a["a"].sum(),
        weights,
        alphas,
        InnerStep(0.1),
        route,
    )
    assert torch.equal(found.implicit["a"], torch.zeros(3))
    assert torch.equal(found.direct["a"], torch.ones(3))


def test_the_library_passes_its_own_check() -> None:
    check_architecture_gradient(right)
    for route in ("exact", "unrolled"):
        check_architecture_gradient(
            lambda *arguments, route=route: architecture_gradient(*arguments, route=route)
        )


@pytest.mark.parametrize("name", BUGS)
def test_every_known_wrong_formula_fails_the_check(name: str) -> None:
    problem = smooth_problem(0.5)
    expected = architecture_gradient(*problem.arguments, route="exact")
    found = BUGS[name](*problem.arguments)
    assert relative_error(found.implicit, expected.implicit) > 1e-3
    assert relative_error(found.total, expected.total) > 1e-3
    with pytest.raises(AssertionError, match="term is off"):
        check_architecture_gradient(BUGS[name])


def test_weights_that_are_not_put_back_fail_the_check() -> None:
    def careless(*arguments: object) -> ArchitectureGradient:
        found = right(*arguments)  # type: ignore[arg-type]
        with torch.no_grad():
            for weight in arguments[2].values():  # type: ignore[attr-defined]
                weight.add_(1e-3).sub_(1e-3)
        return found

    with pytest.raises(AssertionError, match="not put back"):
        check_architecture_gradient(careless)


def test_the_real_supernet_gives_the_published_finite_difference() -> None:
    """On ReLU and max pooling only the formula can be checked: against a plain rewriting of it."""
    torch.manual_seed(0)
    net, alphas = Supernet(2, 3, 2), initial_alphas(2)
    images, labels = torch.randn(2, 6, 3, 8, 8), torch.arange(6) % 10

    def loss(batch: int, weights: dict[str, Tensor]) -> Tensor:
        logits = functional_call(net, weights, (images[batch], alphas))
        return nn.functional.cross_entropy(logits, labels)

    weights = dict(net.named_parameters())
    rate, radius = 0.1, 1e-2
    found = architecture_gradient(
        lambda w, a: loss(0, dict(w)), lambda w, a: loss(1, dict(w)), weights, alphas,
        InnerStep(rate, 0.0, 0.0), "finite_difference", radius,
    )  # fmt: skip
    names, values = list(weights), list(weights.values())
    step = torch.autograd.grad(loss(0, weights), values)
    virtual = {
        name: (weight - rate * gradient).detach().requires_grad_()
        for name, weight, gradient in zip(names, values, step, strict=True)
    }
    v = torch.autograd.grad(loss(1, virtual), list(virtual.values()))
    eps = radius / torch.cat([part.flatten() for part in v]).norm()
    sides = [
        torch.autograd.grad(
            loss(
                0, {n: w + sign * eps * part for n, w, part in zip(names, values, v, strict=True)}
            ),
            list(alphas.values()),
        )
        for sign in (1, -1)
    ]
    for kind, plus, minus in zip(alphas, *sides, strict=True):
        by_hand = -rate * (plus - minus) / (2 * eps)
        torch.testing.assert_close(found.implicit[kind], by_hand, rtol=1e-3, atol=1e-4)


def precisions() -> list[str]:
    backends = torch.backends
    found = [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn]
    found += [backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn]
    return [place.fp32_precision for place in found]


ALLOWED = {
    "the older names": "torch.backends.cuda.matmul.allow_tf32 = True",
    "the newer names": "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    "one convolution": "torch.backends.cudnn.conv.fp32_precision = 'ieee'",
    "all at once": "torch.backends.fp32_precision = 'tf32'",
    "bfloat16 products": "torch.set_float32_matmul_precision('medium')",
}


@pytest.mark.parametrize("how", ALLOWED)
def test_perturbed_passes_are_ieee_float32_whatever_was_allowed(how: str) -> None:
    """In a process of its own: torch refuses to mix the older and the newer names."""
    code = f"import torch, test_bilevel\n{ALLOWED[how]}\ntest_bilevel.check_perturbed_passes()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)


def check_perturbed_passes() -> None:
    """Assert that precision and autocast are right inside and as before afterwards."""
    seen: list[tuple[bool, set[str]]] = []
    weights = {"w": torch.randn(3, requires_grad=True)}
    alphas = {"a": torch.randn(3, requires_grad=True)}

    def train(w: object, a: object) -> Tensor:
        seen.append((torch.is_autocast_enabled("cpu"), set(precisions())))
        return (weights["w"] * alphas["a"]).square().sum()

    before = precisions()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        architecture_gradient(
            train, lambda w, a: w["w"].square().sum(), weights, alphas, InnerStep(0.1)
        )
        assert torch.is_autocast_enabled("cpu"), "autocast is put back"
    assert precisions() == before, "what the caller allowed is put back"
    assert seen == [(True, set(before)), (False, {"ieee"}), (False, {"ieee"})]


def test_float32_is_enough_for_the_perturbed_passes_and_bfloat16_is_not() -> None:
    exact = architecture_gradient(*smooth_problem().arguments, route="exact")
    errors = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        problem = smooth_problem(dtype=dtype)
        found = architecture_gradient(*problem.arguments, route="finite_difference")
        implicit = {kind: value.double() for kind, value in found.implicit.items()}
        errors[name] = relative_error(implicit, exact.implicit)
    assert errors["float32"] < 1e-2
    assert errors["bfloat16"] > 0.5


def test_restoring_by_copy_where_arithmetic_would_not() -> None:
    weights = [torch.randn(10_000)]
    original, step = weights[0].clone(), 0.01 * torch.randn(10_000)
    moved = original + step - 2 * step + step
    assert not torch.equal(moved, original), "the case must be one where arithmetic drifts"
    with moved_and_restored(weights):
        weights[0].add_(step)
    assert torch.equal(weights[0], original)


def test_names_of_routes() -> None:
    assert route_of(1) == "first_order"
    assert route_of(2) == "finite_difference"
    assert route_of(1, "exact") == "exact"
    problem = smooth_problem()
    with pytest.raises(ValueError, match=r"unknown route 'second'; choose one of first_order"):
        architecture_gradient(*problem.arguments, route="second")


# An inner step that clips ------------------------------------------------------------------------


def clipped_problem(share: float) -> SmoothProblem:
    """Return the smooth problem with an inner step that keeps `share` of the gradient's norm."""
    problem = smooth_problem(0.5)
    loss = problem.train_loss(problem.weights, problem.alphas)
    found = torch.autograd.grad(loss, list(problem.weights.values()))
    norm = float(torch.cat([part.flatten() for part in found]).norm())
    return replace(problem, inner=replace(problem.inner, clip=share * norm))


@pytest.mark.parametrize("share", [0.2, 3.0])
def test_all_routes_agree_with_a_training_loss_scaled_by_the_clip(share: float) -> None:
    """Held constant, the coefficient is nothing but a factor of the training loss."""
    problem, plain = clipped_problem(share), smooth_problem(0.5)
    factor = min(1.0, share)
    scaled = replace(plain, train_loss=lambda w, a: factor * plain.train_loss(w, a))
    expected = architecture_gradient(*scaled.arguments, route="exact")
    for route in SECOND_ORDER:
        found = architecture_gradient(*problem.arguments, route, 1e-3)
        for term in ("direct", "implicit"):
            assert relative_error(getattr(found, term), getattr(expected, term)) < 1e-4


def test_a_clip_left_out_of_the_implicit_term_would_be_seen() -> None:
    clipped = architecture_gradient(*clipped_problem(0.2).arguments, route="exact")
    free = architecture_gradient(*smooth_problem(0.5).arguments, route="exact")
    assert relative_error(clipped.implicit, free.implicit) > 0.1
    without = {kind: value / 0.2 for kind, value in clipped.implicit.items()}
    assert relative_error(without, clipped.implicit) > 1.0


def test_a_clip_that_is_not_reached_changes_no_bit() -> None:
    for route in SECOND_ORDER:
        loose = architecture_gradient(*clipped_problem(3.0).arguments, route=route)
        free = architecture_gradient(*smooth_problem(0.5).arguments, route=route)
        assert all(torch.equal(loose.total[kind], free.total[kind]) for kind in free.total)
