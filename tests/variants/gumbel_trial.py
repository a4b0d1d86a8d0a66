"""A trial method: each step samples the weights of the operations, by the Gumbel-softmax.

    weights = softmax(log softmax(alpha) + g),    g = -log(-log(u)),  u uniform

The draw g is one of a step; the expectation that is derived from has none. Source: Xie et al., SNAS
(2019), section 2.3.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from darts_lib.variants import Method


def mix(
    alphas: Mapping[str, Tensor], draw: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    logits = {kind: torch.log_softmax(alpha, dim=-1) for kind, alpha in alphas.items()}
    if draw is None:
        return {kind: logit.exp() for kind, logit in logits.items()}
    return {k: torch.softmax(logits[k] + draw[k], dim=-1) for k in logits}


def gumbel(alphas: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    def draw(like: Tensor) -> Tensor:
        uniform = torch.rand(like.shape, generator=generator, device=like.device)
        return -(-uniform.clamp(min=torch.finfo(uniform.dtype).tiny).log()).log()

    return {kind: draw(alpha) for kind, alpha in alphas.items()}


METHOD = Method(mix=mix, draw=gumbel)
