"""Checks of chapter 03's exercises: where the toy ends, equation 8, the inner step, two bugs."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

BUGS_SHOWN = {"A": "expanded_around_virtual_weights", "B": "multiplied_by_eps"}
"""What is wrong with the two formulas of the exercise, by the names in `gradient_bugs.BUGS`."""

Slope = Callable[[Tensor], Tensor]
"""The gradient by alpha as a function of the weights, both `(2,)`."""


def end_of_toy(end: Callable[[float], float]) -> None:
    """Check `end(xi)`: the alpha at which the toy's second order comes to rest."""
    for xi in (0.0, 0.5, 0.1, 2.0):
        found, right = float(end(xi)), 2 / (1 + 2 * xi)
        if math.isclose(found, right, rel_tol=1e-6):
            continue
        assert not math.isclose(found, 2 - 2 * xi), (
            f"a straight line through both known ends; at xi = {xi} it gives {found:.4g}. Set the "
            "gradient to zero instead."
        )
        assert not math.isclose(found, 2 / (1 + xi)), (
            "the implicit term is 2 xi alpha; the 2 comes from L_train = (w - alpha)^2."
        )
        raise AssertionError(
            f"at xi = {xi} you say {found:.4g}. At rest w = alpha, so w' = w as well; then "
            "(w' - 2) + 2 xi alpha = 0."
        )


def mixed_product(product: Callable[[Slope, Tensor, Tensor, float], Tensor]) -> None:
    """Check `product(slope, w, v, radius)`: equation 8, a central difference of `slope` along v.

    The function behind it is L(w, a) = sin(w0 a0) + w0^2 w1 a1, whose second derivatives are known.
    """
    alphas = torch.tensor([0.7, -1.3], dtype=torch.float64)
    w, v = _pair(0.5, -0.8), _pair(3.0, 4.0)
    asked: list[Tensor] = []

    def slope(weights: Tensor) -> Tensor:
        asked.append(weights.detach().clone())
        w0, w1 = weights
        return torch.stack([w0 * torch.cos(w0 * alphas[0]), w0**2 * w1])

    radius = 1e-3
    found = product(slope, w, v, radius)
    right = _exact(w, v, alphas[0])
    eps = radius / v.norm()
    assert _is_pair(found), (
        "return a tensor with one number for each alpha: combine the two gradients as they are."
    )
    assert asked, "slope was never called; it gives the gradient by alpha at the weights you pass."
    assert torch.equal(w, _pair(0.5, -0.8)), "w was changed: work on a copy, w + eps * v."
    assert not _close(found, right * eps**2), (
        "a / 2 * b is (a / 2) * b: divide by the product, a / (2 * b)."
    )
    assert not _close(found, 2 * right), (
        "twice too large: the two points are 2 eps apart, so divide by 2 eps."
    )
    assert not _close(found, -right), "the sign is turned round: plus first, minus taken from it."
    assert not _close(found, right / v.norm()), (
        "that is the slope along v of length one; divide by 2 eps, not by 2 R."
    )
    centre = torch.stack(asked).mean(dim=0)
    assert _close(centre, w), (
        "the points must lie on both sides of w, at w + eps v and w - eps v: one side alone errs "
        "by eps, both by eps^2."
    )
    moved = max(float((point - w).norm()) for point in asked)
    assert math.isclose(moved, radius, rel_tol=1e-6), (
        f"the weights moved by {moved:.3g}, not by R = {radius:g}: eps is R over the norm of v."
    )
    assert _close(found, right), f"expected {right.tolist()}, found {found.tolist()}."


def virtual_step(step: Callable[[Tensor, Tensor, Tensor, float, float, float], Tensor]) -> None:
    """Check `step(w, gradient, buffer, xi, momentum, decay)` against a step of torch's SGD."""
    w, gradient, buffer = _pair(1.0, -2.0), _pair(0.3, 0.4), _pair(-0.5, 0.1)
    xi, momentum, decay = 0.1, 0.9, 0.05
    found = step(w, gradient, buffer, xi, momentum, decay)
    right = _sgd(w, gradient, buffer, xi, momentum, decay)
    assert _is_pair(found), "return the moved weights, a new tensor of the same shape."
    assert torch.equal(w, _pair(1.0, -2.0)), "w was changed in place; the real weights must stay."
    wrong = {
        "no momentum: add momentum * buffer to what is multiplied by xi.": _sgd(
            w, gradient, 0 * buffer, xi, momentum, decay
        ),
        "no weight decay: add decay * w to the gradient.": _sgd(
            w, gradient, buffer, xi, momentum, 0.0
        ),
        "neither momentum nor weight decay is in it.": w - xi * gradient,
        "it climbs: the step goes against the gradient, w - xi * (...).": 2 * w - right,
        "the buffer counts whole; multiply it by momentum.": w
        - xi * (gradient + decay * w + buffer),
        "weight decay belongs inside the brackets, times xi.": w
        - xi * (gradient + momentum * buffer)
        - decay * w,
        "momentum belongs to the buffer alone, not to the weight decay.": w
        - xi * (gradient + momentum * (buffer + decay * w)),
    }
    for hint, value in wrong.items():
        assert not _close(found, value), hint
    assert _close(found, right), (
        f"expected {right.tolist()}, found {found.tolist()}: "
        "w - xi * (gradient + decay * w + momentum * buffer)."
    )


def spot_the_bugs(names: Mapping[str, str]) -> None:
    """Check the names given to the formulas A and B, as they stand in `gradient_bugs.BUGS`."""
    complete = isinstance(names, Mapping) and set(names) == set(BUGS_SHOWN)
    assert complete, 'answer with a dict of both, {"A": "...", "B": "..."}.'
    hints = {
        "A": "A: go through it line by line beside `by_hand`. From which weights do the two points "
        "start?",
        "B": "B: read its last formula aloud, with brackets where Python puts them.",
    }
    for letter, right in BUGS_SHOWN.items():
        assert names[letter] == right, hints[letter]


def _pair(first: float, second: float) -> Tensor:
    return torch.tensor([first, second], dtype=torch.float64)


def _is_pair(found: object) -> bool:
    return isinstance(found, Tensor) and found.shape == (2,)


def _close(found: Tensor, expected: Tensor) -> bool:
    """Say whether both agree to four digits or so; a central difference at R = 1e-3 does."""
    return torch.allclose(found.to(expected), expected, rtol=1e-4, atol=1e-9)


def _exact(w: Tensor, v: Tensor, alpha: Tensor) -> Tensor:
    """Return the second derivative by alpha and w, times v, written out."""
    (w0, w1), (v0, v1) = w, v
    first = torch.cos(w0 * alpha) - w0 * alpha * torch.sin(w0 * alpha)
    return torch.stack([first * v0, 2 * w0 * w1 * v0 + w0**2 * v1])


def _sgd(
    w: Tensor, gradient: Tensor, buffer: Tensor, xi: float, momentum: float, decay: float
) -> Tensor:
    """Return w after one step of torch's own SGD whose momentum buffer is `buffer`."""
    weight = w.clone().requires_grad_()
    weight.grad = gradient.clone()
    optimiser = torch.optim.SGD([weight], xi, momentum, weight_decay=decay)
    optimiser.state[weight]["momentum_buffer"] = buffer.clone()
    optimiser.step()
    return weight.detach()
