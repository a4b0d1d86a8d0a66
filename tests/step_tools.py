"""What the tests of a step share: looks at each of its operations."""

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = (
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.lift_fresh.default,  # of a tensor made from Python's numbers, then sent
)


class Watching(TorchDispatchMode):
    """Shows each operation and what it puts out to `look`."""

    def __init__(self, look: Callable[[Any, Any], object]) -> None:
        super().__init__()
        self.look = look

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.look(func, out)
        return out


def no_waiting(func: Any, _: Any) -> None:
    """Fail where a step asks the device for a number, which a GPU would have to be waited for."""
    assert func not in WAITING, f"{func} makes the host wait"


def no_float64(func: Any, out: Any) -> None:
    leaves = [leaf for leaf in pytree.tree_leaves(out) if isinstance(leaf, Tensor)]
    assert all(leaf.dtype != torch.float64 for leaf in leaves), f"{func} puts out float64"


class Elsewhere(TorchDispatchMode):
    """Once `strict`, fails where an operation reads a tensor that is not on `meta`."""

    strict = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.strict:
            leaves = pytree.tree_leaves((args, kwargs or {}))
            places = {leaf.device.type for leaf in leaves if isinstance(leaf, Tensor)}
            assert places <= {"meta"} or func in MOVING, f"{func} reads tensors on {sorted(places)}"
        elif func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return 0  # an optimiser that is made asks whether its rate is below zero
        if "_fused_" in func._schema.name:
            return None  # kernels that `meta` does not have
        return func(*args, **(kwargs or {}))


MOVING = (torch.ops.aten.lift_fresh.default, torch.ops.aten._to_copy.default)
"""What may read a tensor made of numbers on its way to the device."""


def live_tensors() -> tuple[int, int]:
    """Return how many tensors there are, and their bytes."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)]
    return len(tensors), sum(tensor.numel() * tensor.element_size() for tensor in tensors)
