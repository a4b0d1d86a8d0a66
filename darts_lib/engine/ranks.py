"""One run in several processes: who this process is, and means over all of them.

`torchrun --nproc-per-node N` starts the processes; `joined` makes them one group. Every rank holds
the whole state and draws the same batches; it computes on its own part of each and takes the mean
of the gradients, so that all ranks stay equal. Without torchrun there is one rank.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

import torch
from torch import Tensor, distributed

from darts_lib.engine.refusals import SettingsError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process's place among all: `rank` counts from 0, the first one writes and prints."""

    rank: int = 0
    count: int = 1

    @classmethod
    def current(cls) -> Self:
        """Return the place in the group that is open, or that of the only process."""
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size())
        return cls()

    @property
    def first(self) -> bool:
        """Say whether this is the rank that writes and prints."""
        return self.rank == 0

    def shared(self, batches: list[Tensor]) -> list[Tensor]:
        """Return the batches of an epoch that give every rank two examples or more.

        A shorter last batch is left out. Raises SettingsError where no batch is long enough.
        """
        if self.count == 1:
            return batches
        kept = [batch for batch in batches if len(batch) >= 2 * self.count]
        if not kept:
            longest = max(map(len, batches), default=0)
            raise SettingsError(
                f"a batch of {longest} is too small for {self.count} ranks: each needs two "
                f"examples; use a batch_size of {2 * self.count} or more, or fewer ranks."
            )
        return kept

    def part(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return this rank's share of a batch (examples, labels); all shares are of one size.

        Up to `count - 1` examples at the end of an uneven batch belong to no rank.
        """
        even = len(batch[1]) // self.count * self.count
        mine = slice(self.rank, even, self.count)
        return batch[0][mine], batch[1][mine]

    def in_turn(self, batches: list[Tensor]) -> list[Tensor]:
        """Return the whole batches that are this rank's, where the ranks take them in turn."""
        return batches[self.rank :: self.count]

    def mean(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return each tensor's mean over the ranks, all sent as one message; shapes are kept."""
        if self.count == 1 or not tensors:
            return list(tensors)
        summed = self.sum(torch.cat([tensor.detach().flatten() for tensor in tensors]))
        sizes = [tensor.numel() for tensor in tensors]
        parts = torch.split(summed / self.count, sizes)
        return [part.view(like.shape) for part, like in zip(parts, tensors, strict=True)]

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over the ranks; `tensor` itself is overwritten by it."""
        if self.count > 1:
            distributed.all_reduce(tensor)
        return tensor

    def wait(self) -> None:
        """Wait here until every rank has come."""
        if self.count > 1:
            distributed.barrier()

    def after_first(self, action: Callable[[], T]) -> T:
        """Do something on the first rank, and then on all others: it may change what they read."""
        if not self.first:
            self.wait()
        done = action()
        if self.first:
            self.wait()
        return done


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """Join the group that torchrun describes in the environment; alone, do nothing.

    On CUDA each rank takes the GPU of its local number. All ranks but the first print nothing.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield Ranks()
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    ranks = Ranks.current()
    try:
        with contextlib.ExitStack() as quiet:
            if not ranks.first:
                nowhere = open(os.devnull, "w", encoding="utf-8", newline="\n")  # noqa: SIM115
                quiet.enter_context(contextlib.redirect_stdout(nowhere))
            yield ranks
    finally:
        if sys.exc_info()[0] is None:  # a rank that failed must not wait for the others
            ranks.wait()
        distributed.destroy_process_group()
