"""Branches of a step: parts that do not wait for each other, side by side on a GPU.

The kernels of a search network are small; one after the other they leave most of a GPU idle. While
a step is recorded as a CUDA graph, each branch is put on a stream of its own, so the graph knows
what may run at the same time. Anywhere else the branches run one after the other.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

import torch
from torch import Tensor

_idle: dict[torch.device, list[torch.cuda.Stream]] = {}
"""Streams that no branch runs on. They are kept: torch has 32 of them, and hands them out anew."""

_apart: ContextVar[bool] = ContextVar("apart", default=True)


@contextmanager
def in_turn() -> Iterator[None]:
    """Run branches one after the other inside, also while recording.

    What the backward pass computes again would be on other streams than the nodes that wait for it.
    """
    token = _apart.set(False)
    try:
        yield
    finally:
        _apart.reset(token)


def side_by_side(
    branches: Sequence[Callable[[], Tensor]], shared: Sequence[Tensor]
) -> list[Tensor]:
    """Return what each branch returns.

    Autograd runs the backward pass of a branch on the branch's stream too. `shared` are the tensors
    made in the recorded step that several branches read: a tensor that is missing there must live
    until the backward pass is over, or its memory may be given away while a branch still reads it.
    """
    compiling, recording = torch.compiler.is_compiling, torch.cuda.is_current_stream_capturing
    if compiling() or not shared[0].is_cuda or not _apart.get() or not recording():
        return [branch() for branch in branches]
    first, *others = branches
    here, idle = torch.cuda.current_stream(), _idle.setdefault(shared[0].device, [])
    start = here.record_event()
    streams = [idle.pop() if idle else torch.cuda.Stream() for _ in others]  # type: ignore[no-untyped-call]
    outputs = [first()]
    for stream, branch in zip(streams, others, strict=True):
        stream.wait_event(start)
        with torch.cuda.stream(stream):
            outputs.append(branch())
        for tensor in shared:  # its memory may be given to others only when the branch is done
            tensor.record_stream(stream)
    for stream, output in zip(streams, outputs[1:], strict=True):
        here.wait_stream(stream)
        output.record_stream(here)
    idle += reversed(streams)
    return outputs


def together(*calls: tuple[Callable[[Tensor], Tensor], Tensor]) -> list[Tensor]:
    """Return what each module makes of its tensor, side by side where that is of use."""
    branches = [partial(module, x) for module, x in calls]
    return side_by_side(branches, [x for _, x in calls])
