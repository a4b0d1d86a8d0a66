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

        w'  =  w - xi (clipped gradient + decay w + momentum m)

    `momentum_buffers` holds m by weight name: all or, before the optimiser's first step, none.
    `clip` limits the norm of the gradient by w; infinite, as the original code has it for images.
    """

    learning_rate: float | Tensor
    momentum: float = 0.9
    weight_decay: float = 3e-4
    momentum_buffers: Tensors = field(default_factory=dict)
    clip: float = math.inf

    def clip_factor(self, gradients: Sequence[Tensor]) -> Tensor | float:
        """Return min(1, clip / norm), which multiplies the gradient: a constant to every route."""
        if math.isinf(self.clip):
            return 1.0
        return (self.clip / nn.utils.get_total_norm(gradients).detach()).clamp(max=1.0)

    def moved(
        self, weights: Tensors, gradients: Sequence[Tensor], factor: Tensor | float = 1.0
    ) -> dict[str, Tensor]:
        """Return w' from gradients in the weights' order, times `factor`; autograd can follow."""
        clipped = torch._foreach_mul(list(gradients), factor)
        decay = torch._foreach_mul(list(weights.values()), self.weight_decay)
        direction = torch._foreach_add(clipped, decay)
        if self.momentum_buffers:
            buffers = [self.momentum_buffers[name] for name in weights]
            direction = torch._foreach_add(direction, torch._foreach_mul(buffers, self.momentum))
        return shifted(weights, direction, -self.learning_rate)


def shifted(
    weights: Tensors, direction: Sequence[Tensor], step: Tensor | float
) -> dict[str, Tensor]:
    """Return weights + step * direction, new tensors, in two kernels for all of them."""
    moves = torch._foreach_mul(list(direction), step)
    return dict(zip(weights, torch._foreach_add(list(weights.values()), moves), strict=True))


@dataclass(frozen=True)
class ArchitectureGradient:
    """The gradient with respect to alpha, `direct + implicit`, each a dict like the alphas."""

    direct: dict[str, Tensor]
    implicit: dict[str, Tensor]
    valid_loss: Tensor

    @property
    def total(self) -> dict[str, Tensor]:
        """Return the sum of both terms: what the alphas' optimiser takes."""
        return {name: self.direct[name] + self.implicit[name] for name in self.direct}


@dataclass(frozen=True)
class Problem:
    """What an architecture gradient is computed from; see `architecture_gradient`."""

    train_loss: Loss
    valid_loss: Loss
    weights: Tensors
    alphas: Tensors
    inner: InnerStep
    radius: float = RADIUS
    mean: Mean = list

    def by_alpha(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        """Name tensors that are in the alphas' order."""
        return dict(zip(self.alphas, tensors, strict=True))


Product = Callable[[Problem, Sequence[Tensor]], list[Tensor]]
"""Returns d^2 L_train / (da dw) v, in the alphas' order, for v in the weights' order."""


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
    """Return the validation loss's gradient with respect to alpha, by one of the four `ROUTES`.

    `weights` are leaf tensors, usually a module's parameters, and so are `alphas`. Nothing is
    changed: the losses are given weights that have moved, and no `.grad` is read or written.
    A weight that is frozen (`requires_grad_(False)`) is a constant: the inner step leaves it.
    `radius` serves the finite difference only. Where several processes share a batch, `mean` takes
    the mean of gradients over them; it cannot be differentiated, so it is not for the routes of
    `DOUBLE_BACKWARD`. Raises ValueError for a route that nobody knows.
    """
    if route not in ROUTES:
        raise ValueError(f"unknown route {route!r}; choose one of {', '.join(ROUTES)}.")
    free = {name: weight for name, weight in weights.items() if weight.requires_grad}
    if len(free) < len(weights):
        constants = dict(weights)
        train_loss, valid_loss = (_beside(constants, loss) for loss in (train_loss, valid_loss))
    if not free:  # nothing follows the alphas
        route = "first_order"
    return ROUTES[route](Problem(train_loss, valid_loss, free, alphas, inner, radius, mean))


def _beside(constants: Tensors, loss: Loss) -> Loss:
    """Return a loss of some of the weights; the others stay as they are."""
    return lambda weights, alphas: loss({**constants, **weights}, alphas)


def gradients(loss: Tensor, inputs: Sequence[Tensor], create_graph: bool = False) -> list[Tensor]:
    """Return d loss / d inputs; zeros for one that is frozen, or that the loss does not have."""
    free = [each for each in inputs if each.requires_grad]
    found: Iterator[Tensor] = iter(())
    if free:
        found = iter(
            torch.autograd.grad(
                loss, free, create_graph=create_graph, allow_unused=True, materialize_grads=True
            )
        )
    return [next(found) if each.requires_grad else torch.zeros_like(each) for each in inputs]


def held(tensors: Tensors) -> dict[str, Tensor]:
    """Return the same values as constants: no gradient by them is asked for, so none is computed.

    To ask autograd for other gradients alone is not enough: an operation with a backward pass in
    Python does not learn what was asked for and computes all.
    """
    return {name: tensor.detach() for name, tensor in tensors.items()}


def first_order(problem: Problem) -> ArchitectureGradient:
    """Xi = 0: the weights are taken as they are, and the implicit term is dropped."""
    loss = problem.valid_loss(held(problem.weights), problem.alphas)
    direct = problem.by_alpha(problem.mean(gradients(loss, list(problem.alphas.values()))))
    zero = {name: torch.zeros_like(value) for name, value in direct.items()}
    return ArchitectureGradient(direct, zero, loss.detach())


def second_order(problem: Problem, product: Product) -> ArchitectureGradient:
    """Equation 7 at the weights after one inner step.

    w'        =  w - xi (momentum + grad_w L_train(w, a) + decay)
    v         =  grad_w' L_val(w', a)
    gradient  =  grad_a L_val(w', a)  -  xi product(v)
    """
    virtual, factor = virtual_weights(problem)
    loss, count = problem.valid_loss(virtual, problem.alphas), len(problem.alphas)
    found = problem.mean(gradients(loss, [*problem.alphas.values(), *virtual.values()]))
    direct, v = problem.by_alpha(found[:count]), found[count:]
    xi = problem.inner.learning_rate * factor
    implicit = problem.by_alpha([-xi * h for h in product(problem, v)])
    return ArchitectureGradient(direct, implicit, loss.detach())


def virtual_weights(problem: Problem) -> tuple[dict[str, Tensor], Tensor | float]:
    """Return w' as leaves, and the factor by which the training gradient was clipped."""
    loss = problem.train_loss(problem.weights, held(problem.alphas))
    found = problem.mean(gradients(loss, list(problem.weights.values())))
    factor = problem.inner.clip_factor(found)
    with torch.no_grad():
        virtual = problem.inner.moved(problem.weights, found, factor)
    return {name: weight.requires_grad_() for name, weight in virtual.items()}, factor


def finite_difference(problem: Problem, v: Sequence[Tensor]) -> list[Tensor]:
    """d^2 L_train / (da dw) v by a central difference around w. Paper, equation 8.

        (grad_a L_train(w + eps v, a) - grad_a L_train(w - eps v, a)) / (2 eps),   eps = R / |v|

    Written as difference * |v| / (2 R), a zero v gives zero and not 0 / 0.
    """
    norm = nn.utils.get_total_norm(v)
    eps = problem.radius / norm.clamp(min=torch.finfo(norm.dtype).tiny ** 0.5)

    def alpha_gradient(step: Tensor) -> list[Tensor]:
        loss = problem.train_loss(shifted(held(problem.weights), v, step), problem.alphas)
        return problem.mean(gradients(loss, list(problem.alphas.values())))

    with full_precision():
        plus, minus = alpha_gradient(eps), alpha_gradient(-eps)
    return [(p - m) * (norm / (2 * problem.radius)) for p, m in zip(plus, minus, strict=True)]


def exact_product(problem: Problem, v: Sequence[Tensor]) -> list[Tensor]:
    """The same product by differentiating twice: d/da of (grad_w L_train . v)."""
    loss = problem.train_loss(problem.weights, problem.alphas)
    first = gradients(loss, list(problem.weights.values()), create_graph=True)
    along_v = torch.stack([(g * part).sum() for g, part in zip(first, v, strict=True)]).sum()
    return gradients(along_v, list(problem.alphas.values()))


def unrolled(problem: Problem) -> ArchitectureGradient:
    """Let autograd differentiate L_val(w'(a), a) straight through the inner step."""
    alphas = list(problem.alphas.values())
    loss = problem.train_loss(problem.weights, problem.alphas)
    first = gradients(loss, list(problem.weights.values()), create_graph=True)
    virtual = problem.inner.moved(problem.weights, first, problem.inner.clip_factor(first))
    valid_loss = problem.valid_loss(virtual, problem.alphas)
    total = gradients(valid_loss, alphas)
    # The direct term alone, to tell the two apart: the same loss with w' held fixed.
    direct = gradients(problem.valid_loss(held(virtual), problem.alphas), alphas)
    implicit = problem.by_alpha([t - d for t, d in zip(total, direct, strict=True)])
    return ArchitectureGradient(problem.by_alpha(direct), implicit, valid_loss.detach())


ROUTES: dict[str, Callable[[Problem], ArchitectureGradient]] = {
    "first_order": first_order,
    "finite_difference": lambda problem: second_order(problem, finite_difference),
    "exact": lambda problem: second_order(problem, exact_product),
    "unrolled": unrolled,
}
"""The four routes. `finite_difference` is the paper's second order."""

DOUBLE_BACKWARD = ("exact", "unrolled")
"""Routes that differentiate a gradient: compiled code and recorded steps cannot."""
