"""The wrong second-order gradients that public code has had, each one mistake away from right.

They are here to be caught: chapter 03 and the tests put each through the same check as the library.
Each is the library's computation with one of its steps replaced.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any

from torch import Tensor, nn

from darts_lib import bilevel
from darts_lib.bilevel import (
    ArchitectureGradient,
    InnerStep,
    Problem,
    Tensors,
    finite_difference,
    second_order,
)
from darts_lib.teaching.smooth_problem import Candidate

BUGS: dict[str, Candidate] = {}
"""Every wrong gradient by name."""

CHECK_RADIUS = 0.1 * bilevel.RADIUS
"""At R = 1e-3 the finite difference of a smooth float64 net is exact to about 1e-5."""


def _candidate(formula: Callable[[Problem], ArchitectureGradient]) -> Candidate:
    """Give a formula the arguments that the check calls it with."""

    @wraps(formula)
    def candidate(*arguments: Any) -> ArchitectureGradient:
        return formula(replace(Problem(*arguments), radius=CHECK_RADIUS))

    return candidate


def _bug(formula: Callable[[Problem], ArchitectureGradient]) -> Candidate:
    return BUGS.setdefault(formula.__name__, _candidate(formula))


def _leaves(tensors: Tensors) -> dict[str, Tensor]:
    return {name: tensor.requires_grad_() for name, tensor in bilevel.held(tensors).items()}


@_candidate
def right(problem: Problem) -> ArchitectureGradient:
    """The library's finite difference, as a candidate for the check."""
    return second_order(problem, finite_difference)


@_bug
def implicit_term_missing(problem: Problem) -> ArchitectureGradient:
    """The gradient at w' without the term that says how w' follows alpha."""
    return second_order(problem, lambda problem, v: [0 * a for a in problem.alphas.values()])


@_bug
def multiplied_by_eps(problem: Problem) -> ArchitectureGradient:
    """`(p - n) / 2. * eps`: by precedence a product, where a quotient was meant."""

    def product(problem: Problem, v: Sequence[Tensor]) -> list[Tensor]:
        eps = problem.radius / nn.utils.get_total_norm(v)
        return [quotient * eps**2 for quotient in finite_difference(problem, v)]

    return second_order(problem, product)


@_bug
def wrong_sign(problem: Problem) -> ArchitectureGradient:
    """Plus where the chain rule says minus."""
    return second_order(problem, lambda problem, v: [-h for h in finite_difference(problem, v)])


@_bug
def virtual_step_does_nothing(problem: Problem) -> ArchitectureGradient:
    """The step's result is bound to a variable and thrown away: w' is w."""
    return second_order(replace(problem, inner=_Thrown(**vars(problem.inner))), finite_difference)


class _Thrown(InnerStep):
    def moved(self, weights: Tensors, *_: object) -> dict[str, Tensor]:
        return bilevel.held(weights)


@_bug
def momentum_left_out(problem: Problem) -> ArchitectureGradient:
    """The inner step forgets the optimiser's momentum buffer."""
    inner = replace(problem.inner, momentum_buffers={})
    return second_order(replace(problem, inner=inner), finite_difference)


@_bug
def weight_decay_left_out(problem: Problem) -> ArchitectureGradient:
    """The inner step forgets the weight decay."""
    inner = replace(problem.inner, weight_decay=0.0)
    return second_order(replace(problem, inner=inner), finite_difference)


@_bug
def alphas_among_the_weights(problem: Problem) -> ArchitectureGradient:
    """Alphas registered as parameters: the virtual step moves them too."""
    gradient, rate = _training_gradient(problem), problem.inner.learning_rate
    moved = bilevel.shifted(problem.alphas, gradient, -rate)
    return second_order(replace(problem, alphas=_leaves(moved)), finite_difference)


@_bug
def gradients_left_over(problem: Problem) -> ArchitectureGradient:
    """No zero_grad between the passes: the training gradient by alpha is still in the buffer."""
    found, left_over = second_order(problem, finite_difference), _training_gradient(problem)
    pairs = zip(found.implicit.items(), left_over, strict=True)
    return replace(found, implicit={name: part + extra for (name, part), extra in pairs})


@_bug
def expanded_around_virtual_weights(problem: Problem) -> ArchitectureGradient:
    """The difference is taken around w' where the formula says w."""
    there = replace(problem, weights=bilevel.virtual_weights(problem)[0])
    return second_order(problem, lambda _, v: finite_difference(there, v))


def _training_gradient(problem: Problem) -> list[Tensor]:
    loss = problem.train_loss(problem.weights, problem.alphas)
    return bilevel.gradients(loss, list(problem.alphas.values()))
