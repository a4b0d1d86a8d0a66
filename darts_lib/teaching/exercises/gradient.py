"""Checks of appendix E's exercises: equation 8, the inner step, the exact product."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from darts_lib.bilevel import exact_product
from darts_lib.teaching.exercises.answers import close, compare, has_shape
from darts_lib.teaching.smooth_problem import smooth_problem

Slope = Callable[[Tensor], Tensor]
"""The gradient with respect to alpha as a function of the weights, both `(2,)`."""


def mixed_product(product: Callable[[Slope, Tensor, Tensor, float], Tensor]) -> None:
    """Check `product(slope, w, v, radius)`: equation 8, a central difference of `slope` along v."""
    w, v = torch.tensor([[0.5, -0.8], [3.0, 4.0]], dtype=torch.float64)
    a0, radius, before = 0.7, 1e-3, w.clone()
    asked: list[Tensor] = []

    def slope(weights: Tensor) -> Tensor:  # of L(w, a) = sin(w0 a0) + w0^2 w1 a1, by a
        asked.append(weights.detach().clone())
        w0, w1 = weights
        return torch.stack([w0 * torch.cos(w0 * a0), w0**2 * w1])

    answer = product(slope, w, v, radius)
    # The second derivative by alpha and w, times v, written out.
    (w0, w1), (v0, v1) = w, v
    first = torch.cos(w0 * a0) - w0 * a0 * torch.sin(w0 * a0)
    right = torch.stack([first * v0, 2 * w0 * w1 * v0 + w0**2 * v1])
    assert has_shape(answer, (2,)), (
        "return a tensor with one number for each alpha: combine the two gradients as they are."
    )
    assert asked, "slope was never called; it gives the gradient by alpha at the weights you pass."
    assert torch.equal(w, before), "w was changed: work on a copy, w + eps * v."
    assert close(torch.stack(asked).mean(dim=0), w), (
        "the points must lie on both sides of w, at w + eps v and w - eps v: one side alone errs "
        "by eps, both by eps^2."
    )
    moved = max(float((point - w).norm()) for point in asked)
    assert close(moved, radius), (
        f"the weights moved by {moved:.3g}, not by R = {radius:g}: eps is R over the norm of v."
    )
    eps = radius / v.norm()
    mistakes = {
        right * eps**2: "a / 2 * b is (a / 2) * b: divide by the product, a / (2 * b).",
        2 * right: "twice too large: the two points are 2 eps apart, so divide by 2 eps.",
        -right: "the sign is turned round: plus first, minus taken from it.",
        right / v.norm(): "that is the slope along v of length one; divide by 2 eps, not by 2 R.",
    }
    otherwise = f"expected {right.tolist()}, found {answer.tolist()}."
    compare(answer, right, mistakes, otherwise, rtol=1e-4)  # as near as a difference comes


def virtual_step(step: Callable[[Tensor, Tensor, Tensor, float, float, float], Tensor]) -> None:
    """Check `step(w, gradient, buffer, xi, momentum, decay)` against a step of torch's SGD."""
    w, gradient, buffer = torch.tensor([[1, -2], [0.3, 0.4], [-0.5, 0.1]], dtype=torch.float64)
    xi, momentum, decay, before = 0.1, 0.9, 0.05, w.clone()
    answer = step(w, gradient, buffer, xi, momentum, decay)
    assert has_shape(answer, (2,)), "return the moved weights, a new tensor of the same shape."
    assert torch.equal(w, before), "w was changed in place; the real weights must stay."
    weight = w.clone().requires_grad_()
    weight.grad = gradient.clone()
    optimiser = torch.optim.SGD([weight], xi, momentum, weight_decay=decay)
    optimiser.state[weight]["momentum_buffer"] = buffer.clone()
    optimiser.step()
    right = weight.detach()
    pulled, pushed = gradient + decay * w, gradient + momentum * buffer
    both = pushed + momentum * decay * w
    mistakes = {
        w - xi * pulled: "no momentum: add momentum * buffer to what is multiplied by xi.",
        w - xi * pushed: "no weight decay: add decay * w to the gradient.",
        w - xi * gradient: "neither momentum nor weight decay is in it.",
        2 * w - right: "it climbs: the step goes against the gradient, w - xi * (...).",
        w - xi * (pulled + buffer): "the buffer counts whole; multiply it by momentum.",
        w - xi * pushed - decay * w: "weight decay belongs inside the brackets, times xi.",
        w - xi * both: "momentum belongs to the buffer alone, not to the weight decay.",
    }
    otherwise = (
        f"expected {right.tolist()}, found {answer.tolist()}: "
        "w - xi * (gradient + decay * w + momentum * buffer)."
    )
    compare(answer, right, mistakes, otherwise)


def twice_differentiated(product: Callable[..., Sequence[Tensor]]) -> None:
    """Check `product(loss, weights, alphas, v)` against the library's exact product."""
    problem = smooth_problem()
    weights, alphas = list(problem.weights.values()), list(problem.alphas.values())
    draw = torch.Generator().manual_seed(1)
    v = [torch.randn(w.shape, generator=draw, dtype=w.dtype) for w in weights]
    right = exact_product(problem, v)
    loss = problem.train_loss(problem.weights, problem.alphas)
    answer = product(loss, weights, alphas, v)
    shapes = [tuple(part.shape) for part in answer]
    assert shapes == [tuple(a.shape) for a in alphas], (
        f"the parts have shapes {shapes[:3]}: one for each of `alphas` is wanted, in their shapes. "
        "Differentiate with respect to the weights first, then with respect to the alphas."
    )
    found, expected = (torch.cat([p.detach().flatten() for p in x]) for x in (answer, right))
    unweighted = exact_product(problem, [torch.ones_like(part) for part in v])
    loss = problem.train_loss(problem.weights, problem.alphas)
    mistakes = {
        -expected: "the minus sign belongs to equation 7, not to the product.",
        torch.cat([p.flatten() for p in unweighted]): "v is not used: multiply each gradient by "
        "its part of v before you add up.",
        torch.cat([p.flatten() for p in torch.autograd.grad(loss, alphas)]): "that is the first "
        "derivative with respect to the alphas.",
    }
    compare(found, expected, mistakes, "not the product: d/d alpha of the sum of gradient times v.")
