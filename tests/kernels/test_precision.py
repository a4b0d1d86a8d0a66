"""Weights in autocast's type: one cast for all, the same values and gradients."""

import gc
import weakref

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from darts_lib.kernels.precision import as_autocast


def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"conv": (4, 3, 3, 3), "gain": (4,), "linear": (2, 4)}
    return {n: torch.randn(s, generator=generator, requires_grad=True) for n, s in shapes.items()}


def loss(own: dict[str, Tensor]) -> Tensor:
    x = F.conv2d(torch.linspace(-1, 1, 150).view(2, 3, 5, 5), own["conv"])
    x = F.batch_norm(x, None, None, own["gain"], training=True)
    return F.linear(x.mean(dim=(2, 3)), own["linear"]).float().square().sum()


@pytest.mark.parametrize("on", [False, True])
def test_it_is_what_autocast_does_at_each_use(on: bool) -> None:
    ends = []
    for cast in (as_autocast, lambda own: own):
        own = weights()
        with torch.autocast("cpu", torch.bfloat16, enabled=on, cache_enabled=False):
            value = loss(cast(own))
        ends.append([value, *torch.autograd.grad(value, list(own.values()))])
    torch.testing.assert_close(*ends, rtol=0, atol=0)
    assert {gradient.dtype for gradient in ends[0]} == {torch.float32}


def test_a_gradient_of_a_gradient_passes_through() -> None:
    own = {"w": torch.tensor([[0.5, -1.0]], requires_grad=True)}
    with torch.autocast("cpu", torch.bfloat16):
        cubed = as_autocast(own)["w"].pow(3).sum()
    (first,) = torch.autograd.grad(cubed, own["w"], create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), own["w"])
    assert second.tolist() == [[3.0, -6.0]]


def test_the_casts_live_until_the_backward_pass_is_over() -> None:
    """On CUDA branches read them on streams of their own, which the allocator does not know of."""
    own = weights()
    with torch.autocast("cpu", torch.bfloat16):
        cast = as_autocast(own)
        kinds = [weight.dtype for weight in cast.values()]
        assert kinds == [torch.bfloat16, torch.float32, torch.bfloat16], "a vector stays"
        kept = weakref.ref(cast["conv"].untyped_storage())
        out = cast["conv"].sum() + cast["linear"].sum()
    del cast
    gc.collect()
    assert kept() is not None
    del out
    gc.collect()
    assert kept() is None, "and no longer"
