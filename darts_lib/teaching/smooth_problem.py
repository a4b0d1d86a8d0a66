"""A small bilevel problem without kinks, in float64, and the check of a gradient on it.

ReLU and max pooling have kinks; a finite difference that crosses one measures something else than
the derivative (chapter 03 measures it). With GELU and average pooling all routes must agree.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call

from darts_lib import bilevel
from darts_lib.bilevel import ArchitectureGradient, InnerStep, Loss, Problem, Tensors
from darts_lib.data.images import clean_batch, load_images
from darts_lib.relaxation import Supernet, mix
from darts_lib.search_space import KINDS, PRIMITIVES, edges

SMOOTH_PRIMITIVES = tuple(name for name in PRIMITIVES if name != "max_pool_3x3")
TOLERANCE = 1e-4
"""Relative. The finite difference at R = 1e-3 errs by about 1e-5; the mildest bug by far more."""
CHECK_RATE = 0.5
"""The inner learning rate of the check; at the paper's 0.025 some bugs are less than 1 % off."""

Candidate = Callable[[Loss, Loss, Tensors, Tensors, InnerStep], ArchitectureGradient]
"""What the check takes: (train_loss, valid_loss, weights, alphas, inner) -> the gradient."""


@dataclass(frozen=True)
class SmoothProblem(Problem):
    """Losses, weights, alphas and inner step of a small smooth supernet in float64."""

    @property
    def arguments(self) -> tuple[Loss, Loss, Tensors, Tensors, InnerStep]:
        """Return what a gradient function takes, in order."""
        return self.train_loss, self.valid_loss, self.weights, self.alphas, self.inner


def smoothed(net: nn.Module) -> nn.Module:
    """Replace every ReLU of a network by a GELU, in place, and return it."""
    for name, module in list(net.named_modules()):
        if isinstance(module, nn.ReLU):
            net.set_submodule(name, nn.GELU())
    return net


def smooth_problem(
    learning_rate: float = 0.5,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    kinks: bool = False,
    digits: bool = False,
) -> SmoothProblem:
    """Make the problem: momentum buffers filled and weight decay above 0, so that both matter.

    The numbers are drawn in float64 on the CPU, so they are the same for every type and device.
    Chapter 03 changes one thing at a time: `kinks` leaves the network its ReLUs, and so makes it
    smooth no more; `digits` takes handwritten 0, 1 and 2 in place of random pictures.
    """
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64).to(device, dtype)

    net: nn.Module = Supernet(2, 3, 2, 3, 1, SMOOTH_PRIMITIVES).to(device, dtype)
    net = net if kinks else smoothed(net)
    shapes = {name: weight.shape for name, weight in net.named_parameters()}
    weights = {name: (0.5 * normal(*shape)).requires_grad_() for name, shape in shapes.items()}

    def loss_on(images: Tensor, labels: Tensor) -> Loss:
        def loss(weights: Tensors, alphas: Tensors) -> Tensor:
            logits = functional_call(net, dict(weights), (images, mix(alphas)))
            return nn.functional.cross_entropy(logits, labels)

        return loss

    labels = torch.arange(6, device=device) % 3
    pictures = [normal(6, 1, 6, 6) for _ in range(2)]
    if digits:
        pictures = [images.to(device, dtype) for images in _digits()]
    train_loss, valid_loss = (loss_on(images, labels) for images in pictures)
    rows, columns = len(edges(2)), len(SMOOTH_PRIMITIVES)
    alphas = {kind: normal(rows, columns).requires_grad_() for kind in KINDS}
    buffers = {name: 0.1 * normal(*shape) for name, shape in shapes.items()}
    inner = InnerStep(learning_rate, 0.9, 3e-2, buffers)
    return SmoothProblem(train_loss, valid_loss, weights, alphas, inner)


def _digits() -> tuple[Tensor, ...]:
    """Return the first two sets of six: 0, 1, 2, 0, 1, 2."""
    images = load_images("digits", Path(), "train")
    classes = [torch.nonzero(images.labels == label)[:4, 0] for label in range(3)]
    order = torch.stack(classes, dim=1).flatten()
    return torch.split(clean_batch(images, order)[0], 6)


def slope(problem: SmoothProblem, kind: str, row: int, column: int, step: float = 1e-5) -> float:
    """Return a central difference over one alpha of what all routes derive: L_val(w'(a), a)."""
    values = []
    for move in (step, -step):
        alphas = {name: value.clone() for name, value in bilevel.held(problem.alphas).items()}
        alphas[kind][row, column] += move
        loss = problem.train_loss(problem.weights, alphas)
        moves = torch.autograd.grad(loss, list(problem.weights.values()))
        virtual = problem.inner.moved(bilevel.held(problem.weights), moves)
        values.append(problem.valid_loss(virtual, alphas).detach())
    return float((values[0] - values[1]) / (2 * step))


def relative_error(found: Tensors, expected: Tensors) -> float:
    """Return |found - expected| / |expected| over all tensors together."""
    difference = nn.utils.get_total_norm([found[name] - expected[name] for name in expected])
    return float(difference / nn.utils.get_total_norm(expected.values()))


@cache
def _exact_gradient() -> ArchitectureGradient:
    return bilevel.architecture_gradient(*smooth_problem(CHECK_RATE).arguments, route="exact")


def check_architecture_gradient(candidate: Candidate) -> None:
    """Raise AssertionError unless a second-order gradient is right, in its terms and its total.

    The reference is the exact product, itself tested against central differences of the objective.
    """
    problem, expected = smooth_problem(CHECK_RATE), _exact_gradient()
    before = {name: weight.clone() for name, weight in bilevel.held(problem.weights).items()}
    found = candidate(*problem.arguments)
    for term in ("direct", "implicit", "total"):
        error = relative_error(getattr(found, term), getattr(expected, term))
        assert error < TOLERANCE, (
            f"the {term} term is off by {error:.1e} of its size; at most {TOLERANCE:.0e} is right."
        )
    for name, weight in problem.weights.items():
        assert torch.equal(weight, before[name]), f"the weights {name} were not put back."
