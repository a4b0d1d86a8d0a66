"""What a step keeps in memory, measured while it is taken."""

import contextlib
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class StepMemory:
    """Bytes at the peak of a step, beyond what was there before it."""

    peak: int = 0


class _Saved:
    """A tensor that autograd keeps for a backward pass."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


@contextlib.contextmanager
def step_memory(device: torch.device, known: Iterable[Tensor]) -> Iterator[StepMemory]:
    """Measure the memory of the step taken inside; `known` are tensors that it does not add.

    On CUDA it is the peak of what is allocated. Elsewhere it is the peak of what autograd keeps for
    backward passes, each storage counted once: results that nobody keeps are not in it.
    """
    memory = StepMemory()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield memory
        memory.peak = torch.cuda.max_memory_allocated(device) - before
        return
    keepers = Counter(tensor.untyped_storage()._cdata for tensor in known)
    live = 0

    def pack(tensor: Tensor) -> _Saved:
        nonlocal live
        saved, storage = _Saved(tensor), tensor.untyped_storage()
        size = 0 if keepers[storage._cdata] else storage.nbytes()
        keepers[storage._cdata] += 1
        live += size
        memory.peak = max(memory.peak, live)
        weakref.finalize(saved, released, storage._cdata, storage.nbytes())
        return saved

    def released(key: int, size: int) -> None:
        nonlocal live
        keepers[key] -= 1
        live -= 0 if keepers[key] else size

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        yield memory
