"""What the tests of a step share: a mode that fails where the host would wait, live tensors."""

import gc
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = (
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.lift_fresh.default,  # of a tensor made from Python's numbers, then sent
)


class NoWaiting(TorchDispatchMode):
    """Fails where a step asks the device for a number, which a GPU would have to be waited for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in WAITING, f"{func} makes the host wait"
        return func(*args, **(kwargs or {}))


def live_tensors() -> tuple[int, int]:
    """Return how many tensors there are, and their bytes."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)]
    return len(tensors), sum(tensor.numel() * tensor.element_size() for tensor in tensors)
