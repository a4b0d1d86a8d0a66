"""The architecture gradient: how the validation loss changes with alpha when w follows.

    min_a  L_val(w*(a), a)    with  w*(a) = argmin_w L_train(w, a)          paper, equations 3, 4

One inner step stands for the argmin, w' = w - xi (momentum + grad_w L_train(w, a) + decay), so

    grad_a  =  grad_a L_val(w', a)  -  xi  d^2 L_train(w, a) / (da dw)  v
               `direct`                `implicit`

with v = grad_w' L_val(w', a): paper, equation 7. Four routes compute it. This module knows losses,
weights and alphas, not images or words: a loss is a function `loss(weights, alphas) -> scalar`.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from darts_lib.kernels.precision import full_precision

Tensors = Mapping[str, Tensor]
Loss = Callable[[Tensors, Tensors], Tensor]
Mean = Callable[[Sequence[Tensor]], list[Tensor]]

RADIUS = 1e-2
"""R of the finite difference: the weights move by R in all, whatever their number. Paper, 2.3."""


@dataclass(frozen=True)
class InnerStep:
    """One step of SGD on the weights, the `optimiser` of the inner problem.

    `momentum_buffers` holds the optimiser's buffers by weight name, missing before its first step.
    `clip` limits the norm of the gradient by w; infinite, as the original code has it for images.
    """

    learning_rate: float | Tensor
    momentum: float = 0.9
    weight_decay: float = 3e-4
    momentum_buffers: Tensors = field(default_factory=dict)
    clip: float = math.inf

    def kept(self, gradients: Sequence[Tensor]) -> Tensor | float:
        """Return min(1, clip / norm), which multiplies the gradient: a constant to every route."""
        if math.isinf(self.clip):
            return 1.0
        return (self.clip / nn.utils.get_total_norm(gradients).detach()).clamp(max=1.0)

    def direction(self, name: str, weight: Tensor, gradient: Tensor) -> Tensor:
        """Return what SGD multiplies by the learning rate for one weight tensor."""
        direction = gradient + self.weight_decay * weight
        if name in self.momentum_buffers:
            direction = direction + self.momentum * self.momentum_buffers[name]
        return direction


@dataclass(frozen=True)
class ArchitectureGradient:
    """The gradient by alpha, `direct + implicit`, each a dict like the alphas."""

    direct: dict[str, Tensor]
    implicit: dict[str, Tensor]
    valid_loss: Tensor

    @property
    def total(self) -> dict[str, Tensor]:
        """Return the sum of both terms: what the alphas' optimiser takes."""
        return {name: self.direct[name] + self.implicit[name] for name in self.direct}


def architecture_gradient(
    train_loss: Loss,
    valid_loss: Loss,
    weights: Tensors,
    alphas: Tensors,
    inner: InnerStep,
    route: str = "finite_difference",
    radius: float = RADIUS,
    mean: Mean = list,
) -> ArchitectureGradient:
    """Return the gradient of the validation loss by alpha, by one of the four `ROUTES`.

    `weights` are leaf tensors, usually a module's parameters; they are moved in place during the
    call and are the same bit for bit afterwards, also when a loss raises. `alphas` are leaf
    tensors. No `.grad` is read or written. `radius` serves the finite difference only. Where
    several processes share a batch, `mean` takes the mean of gradients over them; it cannot be
    differentiated, so it is not for the routes of `DOUBLE_BACKWARD`.
    """
    if route not in ROUTES:
        raise ValueError(f"unknown route {route!r}; choose one of {', '.join(ROUTES)}.")
    problem = _Problem(train_loss, valid_loss, dict(weights), dict(alphas), inner, radius, mean)
    return ROUTES[route](problem)


@dataclass(frozen=True)
class _Problem:
    train_loss: Loss
    valid_loss: Loss
    weights: dict[str, Tensor]
    alphas: dict[str, Tensor]
    inner: InnerStep
    radius: float
    mean: Mean

    def as_alphas(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        return dict(zip(self.alphas, tensors, strict=True))


def gradients(loss: Tensor, inputs: Sequence[Tensor], create_graph: bool = False) -> list[Tensor]:
    """Return d loss / d inputs; zeros for an input that the loss does not depend on."""
    found = torch.autograd.grad(
        loss, inputs, create_graph=create_graph, allow_unused=True, materialize_grads=True
    )
    return list(found)


def held(tensors: Tensors) -> dict[str, Tensor]:
    """Return the same values as constants: no gradient by them is asked for, so none is computed.

    To ask autograd for other gradients alone is not enough: an operation with a backward pass in
    Python does not learn what was asked for and computes all.
    """
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _first_order(problem: _Problem) -> ArchitectureGradient:
    """Xi = 0: the weights are taken as they are, and the implicit term is dropped."""
    loss = problem.valid_loss(held(problem.weights), problem.alphas)
    found = problem.mean(gradients(loss, list(problem.alphas.values())))
    direct = problem.as_alphas(found)
    none = {name: torch.zeros_like(value) for name, value in direct.items()}
    return ArchitectureGradient(direct, none, loss.detach())


def _second_order(
    problem: _Problem, hessian_product: Callable[[_Problem, list[Tensor]], list[Tensor]]
) -> ArchitectureGradient:
    weights, alphas = list(problem.weights.values()), list(problem.alphas.values())
    loss = problem.train_loss(problem.weights, held(problem.alphas))
    train_gradients = problem.mean(gradients(loss, weights))
    kept = problem.inner.kept(train_gradients)
    with moved_and_restored(weights):
        _virtual_step(problem, torch._foreach_mul(train_gradients, kept))
        loss = problem.valid_loss(problem.weights, problem.alphas)
        found = problem.mean(gradients(loss, alphas + weights))
    direct, v = found[: len(alphas)], found[len(alphas) :]
    step = problem.inner.learning_rate * kept
    implicit = problem.as_alphas([-step * h for h in hessian_product(problem, v)])
    return ArchitectureGradient(problem.as_alphas(direct), implicit, loss.detach())


@torch.no_grad()
def _virtual_step(problem: _Problem, clipped: tuple[Tensor, ...]) -> None:
    """W' = w - xi (clipped gradient + decay w + momentum m), in place, a few kernels for all."""
    inner, weights = problem.inner, list(problem.weights.values())
    directions = torch._foreach_add(clipped, torch._foreach_mul(weights, inner.weight_decay))
    buffered = [i for i, name in enumerate(problem.weights) if name in inner.momentum_buffers]
    if buffered:
        buffers = [inner.momentum_buffers[list(problem.weights)[i]] for i in buffered]
        torch._foreach_add_(
            [directions[i] for i in buffered], torch._foreach_mul(buffers, inner.momentum)
        )
    torch._foreach_sub_(weights, torch._foreach_mul(directions, inner.learning_rate))


def _finite_difference_product(problem: _Problem, v: list[Tensor]) -> list[Tensor]:
    """d^2 L_train / (da dw) v by a central difference around w. Paper, equation 8.

    eps = R / |v|. Written as difference * |v| / (2 R), a zero v gives zero and not 0 / 0.
    """
    weights = list(problem.weights.values())
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(v)))
    step = problem.radius / norm.clamp(min=torch.finfo(norm.dtype).tiny ** 0.5)
    with full_precision(), moved_and_restored(weights) as originals:
        plus = _alpha_gradient_at(problem, v, step)
        _restore(weights, originals)
        minus = _alpha_gradient_at(problem, v, -step)
    return [(p - m) * (norm / (2 * problem.radius)) for p, m in zip(plus, minus, strict=True)]


def _alpha_gradient_at(problem: _Problem, v: list[Tensor], step: Tensor) -> list[Tensor]:
    with torch.no_grad():
        torch._foreach_add_(list(problem.weights.values()), torch._foreach_mul(v, step))
    loss = problem.train_loss(held(problem.weights), problem.alphas)
    return problem.mean(gradients(loss, list(problem.alphas.values())))


def _exact_product(problem: _Problem, v: list[Tensor]) -> list[Tensor]:
    """The same product by differentiating twice: d/da of (grad_w L_train . v)."""
    loss = problem.train_loss(problem.weights, problem.alphas)
    first = gradients(loss, list(problem.weights.values()), create_graph=True)
    along_v = torch.stack([(g * part).sum() for g, part in zip(first, v, strict=True)]).sum()
    return gradients(along_v, list(problem.alphas.values()))


def _unrolled(problem: _Problem) -> ArchitectureGradient:
    """Let autograd differentiate L_val(w'(a), a) straight through the inner step."""
    alphas = list(problem.alphas.values())
    loss = problem.train_loss(problem.weights, problem.alphas)
    first = gradients(loss, list(problem.weights.values()), create_graph=True)
    inner, kept = problem.inner, problem.inner.kept(first)
    virtual = {
        name: weight - inner.learning_rate * inner.direction(name, weight, kept * gradient)
        for (name, weight), gradient in zip(problem.weights.items(), first, strict=True)
    }
    valid_loss = problem.valid_loss(virtual, problem.alphas)
    total = gradients(valid_loss, alphas)
    # The direct term alone, to tell the two apart: the same loss with w' held fixed.
    direct = gradients(problem.valid_loss(held(virtual), problem.alphas), alphas)
    implicit = problem.as_alphas([t - d for t, d in zip(total, direct, strict=True)])
    return ArchitectureGradient(problem.as_alphas(direct), implicit, valid_loss.detach())


ROUTES: dict[str, Callable[[_Problem], ArchitectureGradient]] = {
    "first_order": _first_order,
    "finite_difference": lambda problem: _second_order(problem, _finite_difference_product),
    "exact": lambda problem: _second_order(problem, _exact_product),
    "unrolled": _unrolled,
}
"""The four routes. `finite_difference` is the paper's second order."""

DOUBLE_BACKWARD = ("exact", "unrolled")
"""Routes that differentiate a gradient: compiled code and recorded steps cannot."""


def route_of(order: int, route: str = "") -> str:
    """Return the route for the paper's `order` 1 or 2; a named route wins over the order."""
    return route or {1: "first_order", 2: "finite_difference"}[order]


@contextmanager
def moved_and_restored(weights: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Let the body change weights in place; copy the originals back, whatever happens.

    Adding and subtracting the same amount would leave half of all floats another last bit.
    """
    originals = [torch.empty_like(weight) for weight in weights]
    _restore(originals, weights)  # in a few kernels, where `clone` takes one for each
    try:
        yield originals
    finally:
        _restore(weights, originals)


@torch.no_grad()
def _restore(weights: Sequence[Tensor], originals: Sequence[Tensor]) -> None:
    torch._foreach_copy_(list(weights), list(originals))
