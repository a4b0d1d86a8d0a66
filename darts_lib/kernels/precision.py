"""Which floating-point type a pass computes in: float32 where it must be, bfloat16 where it may."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def full_precision() -> Iterator[None]:
    """IEEE float32 inside: no autocast, no TF32, no bfloat16 in place of float32.

    The finite difference moves each weight by about 1e-5 of itself; bfloat16 or TF32 drown that.
    """
    backends: Any = torch.backends
    places = [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn]
    places += [backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn]
    # `allow_tf32` cannot be read where a caller has chosen by these names; they can always.
    before = [place.fp32_precision for place in places]
    for place in places:
        place.fp32_precision = "ieee"
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        for place, precision in zip(places, before, strict=True):
            place.fp32_precision = precision


def as_autocast(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights in the type that autocast would give each where it is used.

    That is one kernel for all, forward and backward, in place of two for each. Vectors stay: a
    normalisation wants its gain in float32.
    """
    found, kind = dict(weights), next(iter(weights.values())).device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        names = [name for name, weight in weights.items() if weight.dim() > 1]
        to = torch.get_autocast_dtype(kind)
        found.update(zip(names, _Cast.apply(to, *(found[name] for name in names)), strict=True))
    return found


class _Cast(torch.autograd.Function):
    """Many tensors of one type in another type."""

    @staticmethod
    def forward(ctx: Any, to: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.back = tensors[0].dtype
        found = [torch.empty_like(tensor, dtype=to) for tensor in tensors]
        torch._foreach_copy_(found, list(tensors))
        # Alive until all who read them are done: branches may do so on streams of their own.
        ctx.save_for_backward(*found)
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_Cast.apply(ctx.back, *gradients)
