"""The wrong second-order gradients that public code has had, each one mistake away from right.

They are here to be caught: chapter 03 and the tests put each through the same check as the
library. All share one explicit computation whose steps a mistake replaces.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from darts_lib.bilevel import (
    RADIUS,
    ArchitectureGradient,
    InnerStep,
    Loss,
    Tensors,
    architecture_gradient,
    gradients,
)

Candidate = Callable[[Loss, Loss, Tensors, Tensors, InnerStep], ArchitectureGradient]
"""What the check takes: (train_loss, valid_loss, weights, alphas, inner) -> the gradient."""

CHECK_RADIUS = 0.1 * RADIUS
"""At R = 1e-3 the finite difference of a smooth float64 net is exact to about 1e-5."""


def right(
    train_loss: Loss, valid_loss: Loss, weights: Tensors, alphas: Tensors, inner: InnerStep
) -> ArchitectureGradient:
    """The library's finite difference, as a candidate for the check."""
    return architecture_gradient(
        train_loss, valid_loss, weights, alphas, inner, "finite_difference", CHECK_RADIUS
    )


def _moved(weights: Tensors, direction: Tensors, step: float | Tensor) -> dict[str, Tensor]:
    return {
        name: (weight + step * direction[name]).detach().requires_grad_()
        for name, weight in weights.items()
    }


def _virtual(train_loss: Loss, weights: Tensors, alphas: Tensors, inner: InnerStep) -> Tensors:
    found = gradients(train_loss(weights, alphas), list(weights.values()))
    directions = {
        name: inner.direction(name, weights[name].detach(), gradient)
        for name, gradient in zip(weights, found, strict=True)
    }
    return _moved(weights, directions, -inner.learning_rate)


def _explicit(
    train_loss: Loss,
    valid_loss: Loss,
    weights: Tensors,
    alphas: Tensors,
    inner: InnerStep,
    virtual: Tensors,
    centre: Tensors,
    scale: Callable[[Tensor, Tensor], Tensor],
) -> ArchitectureGradient:
    """Grad L_val(virtual) - xi * scale(difference around centre, eps)."""
    loss = valid_loss(virtual, alphas)
    found = gradients(loss, [*alphas.values(), *virtual.values()])
    direct, v = found[: len(alphas)], dict(zip(weights, found[len(alphas) :], strict=True))
    eps = CHECK_RADIUS / torch.cat([part.flatten() for part in v.values()]).norm()
    plus, minus = (
        gradients(train_loss(_moved(centre, v, step), alphas), list(alphas.values()))
        for step in (eps, -eps)
    )
    implicit = [-inner.learning_rate * scale(p - m, eps) for p, m in zip(plus, minus, strict=True)]
    return ArchitectureGradient(
        dict(zip(alphas, direct, strict=True)),
        dict(zip(alphas, implicit, strict=True)),
        loss.detach(),
    )


def _divide(difference: Tensor, eps: Tensor) -> Tensor:
    return difference / (2 * eps)


def implicit_term_missing(
    train_loss: Loss, valid_loss: Loss, weights: Tensors, alphas: Tensors, inner: InnerStep
) -> ArchitectureGradient:
    """The gradient at w' without the term that says how w' follows alpha."""
    found = right(train_loss, valid_loss, weights, alphas, inner)
    return replace(
        found, implicit={name: torch.zeros_like(part) for name, part in found.implicit.items()}
    )


def multiplied_by_eps(
    train_loss: Loss, valid_loss: Loss, weights: Tensors, alphas: Tensors, inner: InnerStep
) -> ArchitectureGradient:
    """`(p - n) / 2. * eps`: by precedence a product, where a quotient was meant."""
    virtual = _virtual(train_loss, weights, alphas, inner)
    return _explicit(
        train_loss, valid_loss, weights, alphas, inner, virtual, weights, lambda d, eps: d / 2 * eps
    )


def wrong_sign(
    train_loss: Loss, valid_loss: Loss, weights: Tensors, alphas: Tensors, inner: InnerStep
) -> ArchitectureGradient:
    """Plus where the chain rule says minus."""
    found = right(train_loss, valid_loss, weights, alphas, inner)
    return replace(found, implicit={name: -part for name, part in found.implicit.items()})


def virtual_step_does_nothing(
    train_loss: Loss, valid_loss: Loss, weights: Tensors, alphas: Tensors, inner: InnerStep
) -> ArchitectureGradient:
    """The step's result is bound to a variable and thrown away: w' is w."""
    virtual = _moved(weights, weights, 0.0)
    return _explicit(train_loss, valid_loss, weights, alphas, inner, virtual, weights, _divide)


def momentum_left_out(
    train_loss: Loss, valid_loss: Loss, weights: Tensors, alphas: Tensors, inner: InnerStep
) -> ArchitectureGradient:
    """The inner step forgets the optimiser's momentum buffer."""
    return right(train_loss, valid_loss, weights, alphas, replace(inner, momentum_buffers={}))


def weight_decay_left_out(
    train_loss: Loss, valid_loss: Loss, weights: Tensors, alphas: Tensors, inner: InnerStep
) -> ArchitectureGradient:
    """The inner step forgets the weight decay."""
    return right(train_loss, valid_loss, weights, alphas, replace(inner, weight_decay=0.0))


def alphas_among_the_weights(
    train_loss: Loss, valid_loss: Loss, weights: Tensors, alphas: Tensors, inner: InnerStep
) -> ArchitectureGradient:
    """Alphas registered as parameters: the virtual step moves them too."""
    found = gradients(train_loss(weights, alphas), list(alphas.values()))
    directions = dict(zip(alphas, found, strict=True))
    return right(
        train_loss,
        valid_loss,
        weights,
        _moved(alphas, directions, -inner.learning_rate),
        inner,
    )


def gradients_left_over(
    train_loss: Loss, valid_loss: Loss, weights: Tensors, alphas: Tensors, inner: InnerStep
) -> ArchitectureGradient:
    """No zero_grad between the passes: the training gradient by alpha is still in the buffer."""
    found = right(train_loss, valid_loss, weights, alphas, inner)
    left_over = gradients(train_loss(weights, alphas), list(alphas.values()))
    return replace(
        found,
        implicit={
            name: part + extra
            for (name, part), extra in zip(found.implicit.items(), left_over, strict=True)
        },
    )


def expanded_around_virtual_weights(
    train_loss: Loss, valid_loss: Loss, weights: Tensors, alphas: Tensors, inner: InnerStep
) -> ArchitectureGradient:
    """The difference is taken around w' where the formula says w."""
    virtual = _virtual(train_loss, weights, alphas, inner)
    return _explicit(train_loss, valid_loss, weights, alphas, inner, virtual, virtual, _divide)


BUGS: dict[str, Candidate] = {
    bug.__name__: bug
    for bug in (
        implicit_term_missing,
        multiplied_by_eps,
        wrong_sign,
        virtual_step_does_nothing,
        momentum_left_out,
        weight_decay_left_out,
        alphas_among_the_weights,
        gradients_left_over,
        expanded_around_virtual_weights,
    )
}
"""Every wrong gradient by name."""
