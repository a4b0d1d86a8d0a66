"""What the checks of several chapters ask of an answer."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Value = Tensor | float


def close(answer: Value, right: Value, rtol: float = 1e-5) -> bool:
    """Say whether two numbers, or two tensors of one shape, agree as far as float32 may round."""
    first, second = (torch.as_tensor(x, dtype=torch.float64) for x in (answer, right))
    return first.shape == second.shape and torch.allclose(first, second, rtol, atol=1e-6)


def compare(
    answer: Value, right: Value, mistakes: Mapping[Any, str], otherwise: str, rtol: float = 1e-5
) -> None:
    """Raise a wrong answer's hint, the one it has in `mistakes` or `otherwise`."""
    hints = (hint for wrong, hint in mistakes.items() if close(answer, wrong, rtol))
    assert close(answer, right, rtol), next(hints, otherwise)


def has_shape(answer: object, shape: Sequence[int]) -> bool:
    """Say whether an answer is a tensor of this shape."""
    return isinstance(answer, Tensor) and answer.shape == tuple(shape)
