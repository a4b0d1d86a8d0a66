"""What a step costs before it is run: operations, bytes and peak memory from shapes; its seconds.

The step runs once on fake tensors, which have a shape and a device but no content. Every operation
that reaches torch's dispatcher is counted, and every storage is followed from birth to death. For
the seconds each distinct operation is timed by itself on the machine at hand, with its results held
for a while: as in a step, the next one is written to memory that is not in the cache.
"""

import copy
import statistics
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from darts_lib.engine.devices import wait
from darts_lib.fast.fan import Fan
from darts_lib.search_space import PRIMITIVES

WITHOUT_FAKE = ("_fused_sgd_", "_fused_adam_")
"""Operations that only change their arguments and have no fake form: counted, not run."""

Run = TypeVar("Run")

BRIEF = 5e-4
"""Seconds for which an operation is repeated to be timed."""

HELD = 40, 100 * 2**20
"""How many results are held while operations are timed, and how many bytes of one operation's."""

REPEATS = 5
"""Times that the overhead is measured; the median counts."""

CPU_ALLOCATOR = (1.33, 0.0018, 17 * 2**20)
"""Resident bytes are about a * peak + b * touched + c.

The C library keeps freed pieces, and the more is taken and given back in a step the less well they
fit; kernels need scratch. Fitted with glibc to 21 second-order steps, plain and recomputed, of
46 MiB to 1.6 GiB; they differ from it by 15 % at most. CUDA's allocator counts what is asked of it.
"""


@dataclass(frozen=True)
class Like:
    """The shape of a tensor that an operation was given."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def tensor(self, device: torch.device) -> Tensor:
        """Return such a tensor: small positive numbers, zeros where whole numbers are indices."""
        places = (
            step * max(0, count - 1) for count, step in zip(self.size, self.stride, strict=True)
        )
        storage = torch.zeros(1 + sum(places), dtype=self.dtype, device=device)
        if self.dtype.is_floating_point:
            storage.uniform_(0.5, 1.5)
        return storage.as_strided(self.size, self.stride)


@dataclass(frozen=True)
class Call:
    """One distinct operation: its name, and arguments with shapes in place of tensors."""

    operation: Any
    leaves: tuple[object, ...]
    structure: str


@dataclass
class StepCost:
    """The operations of a step with their counts, the bytes they touch, and the memory they need.

    `peak_bytes` is what the step holds at most, beyond what was there before it.
    """

    calls: Counter[Call] = field(default_factory=Counter)
    specs: dict[str, pytree.TreeSpec] = field(default_factory=dict)
    touched_bytes: int = 0
    peak_bytes: int = 0

    @property
    def operations(self) -> int:
        """Return how many operations a step sends to the device; views are not counted."""
        return sum(self.calls.values())

    def memory(self, device: torch.device) -> float:
        """Return the bytes that a step adds at its peak: resident ones on the CPU."""
        if device.type != "cpu":
            return self.peak_bytes
        kept, worn, scratch = CPU_ALLOCATOR
        return kept * self.peak_bytes + worn * self.touched_bytes + scratch

    def seconds(self, device: torch.device, recorded: bool = False) -> float:
        """Return the seconds of a step: each distinct operation timed here, times its count.

        Python and autograd take their time for each operation too; that is measured here on a
        fan of the smallest images. They take none in a `recorded` step, whose branches may also run
        side by side: then this is an upper bound.
        """
        kernels = self._kernels(device)
        return kernels if recorded else kernels + self.operations * _overhead(device)

    def _kernels(self, device: torch.device) -> float:
        held: deque[object] = deque(maxlen=1)
        seconds = 0.0
        with torch.no_grad(), torch.random.fork_rng():
            for call, count in self.calls.items():
                one, held = self._time(call, device, held)
                seconds += count * one
        return seconds

    def _time(
        self, call: Call, device: torch.device, held: deque[object]
    ) -> tuple[float, deque[object]]:
        """Return the seconds of an operation, and what to hold while the next one is timed."""
        leaves = [leaf.tensor(device) if isinstance(leaf, Like) else leaf for leaf in call.leaves]
        args, kwargs = pytree.tree_unflatten(leaves, self.specs[call.structure])
        first = call.operation(*args, **kwargs)
        size = sum(leaf.nbytes for leaf in pytree.tree_leaves(first) if isinstance(leaf, Tensor))
        held = deque([*held, first], maxlen=max(1, min(HELD[0], HELD[1] // max(size, 1))))
        wait(device)
        start, runs, spent = time.perf_counter(), 0, 0.0
        while spent < BRIEF:
            held.append(call.operation(*args, **kwargs))
            runs += 1
            if runs & (runs - 1) == 0:  # after 1, 2, 4, ... runs, so that a GPU is kept busy
                wait(device)
            spent = time.perf_counter() - start
        return spent / runs, held


def _overhead(device: torch.device) -> float:
    """Return the seconds an operation that Python and autograd add to its kernel."""
    with torch.random.fork_rng():
        return _fan_overhead(device)


def _fan_overhead(device: torch.device) -> float:
    fan = Fan(4, 1, 3, 1, PRIMITIVES).to(device)
    for weight in fan.parameters():
        nn.init.ones_(weight)

    def step(net: nn.Module) -> None:  # a pass for the weights, one for what mixes
        images = torch.ones(2, 4, 4, 4, device=device)
        gains = torch.ones(len(PRIMITIVES), 12, device=device, requires_grad=True)
        for given, wanted in ((gains.detach(), list(net.parameters())), (gains, [gains])):
            out = net(images, dict(zip(PRIMITIVES, given.unbind(), strict=True)))
            torch.autograd.grad(out.sum(), wanted)

    with (recorder := _Recorder()):  # real tensors: so small, they are quicker than fake ones
        step(fan)
    cost = recorder.cost
    spent = []
    for _ in range(REPEATS):
        wait(device)
        start = time.perf_counter()
        step(fan)
        wait(device)
        spent.append(time.perf_counter() - start - cost._kernels(device))
    return max(0.0, statistics.median(spent)) / cost.operations


class _Recorder(TorchDispatchMode):
    """Counts operations and follows storages while a step runs on fake tensors."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.cost, self.live = StepCost(), 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:  # a question, asked of every fake tensor
            return args[0].fake_device
        skipped = func._schema.name.removeprefix("aten::") in WITHOUT_FAKE
        given, structure = pytree.tree_flatten((args, kwargs))
        inputs = [leaf for leaf in given if isinstance(leaf, Tensor)]
        for tensor in inputs:  # what was there before the step is not the step's
            self._follow(tensor, 0)
        out = None if skipped else func(*args, **kwargs)
        outputs = [leaf for leaf in pytree.tree_leaves(out) if isinstance(leaf, Tensor)]
        for tensor in outputs:
            self._follow(tensor, tensor.untyped_storage().nbytes())
        if not _is_free(func, inputs, outputs):
            self._count(func, given, structure, [*inputs, *outputs])
        return out

    def _count(
        self, func: Any, given: Sequence[Any], spec: pytree.TreeSpec, tensors: Sequence[Tensor]
    ) -> None:
        leaves = tuple(
            Like(tuple(leaf.shape), leaf.stride(), leaf.dtype) if isinstance(leaf, Tensor) else leaf
            for leaf in given
        )
        if func is torch.ops.aten.native_batch_norm_backward.default and (gain := leaves[2]):
            # Fake statistics have the input's type under autocast, real ones the gain's (CPU).
            leaves = (*leaves[:5], *(replace(leaf, dtype=gain.dtype) for leaf in leaves[5:7]),
                      *leaves[7:])  # fmt: skip
        structure = str(spec)
        self.cost.specs.setdefault(structure, spec)
        self.cost.calls[Call(func, leaves, structure)] += 1
        self.cost.touched_bytes += sum(t.numel() * t.element_size() for t in tensors)

    def _follow(self, tensor: Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.known:
            return
        self.known.add(key)
        self.live += size
        self.cost.peak_bytes = max(self.cost.peak_bytes, self.live)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


def _is_free(func: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> bool:
    """Say whether an operation moves no data: a view, or an empty tensor."""
    if func._schema.is_mutable:
        return False
    if "empty" in func._schema.name:
        return True
    own = {tensor.untyped_storage()._cdata for tensor in inputs}
    return all(tensor.untyped_storage()._cdata in own for tensor in outputs)


def trace(run: Run, step: Callable[[Run], object]) -> StepCost:
    """Return the cost of `step(run)`, which is taken on a copy of `run` made of fake tensors.

    Nothing of `run` is changed and nothing is computed, so any size can be asked for.
    """
    fake = FakeTensorMode()
    with FakeCopyMode(fake):
        twin = copy.deepcopy(run)
    recorder = _Recorder()
    with fake, recorder:
        step(twin)
    return recorder.cost
