"""What a step on text will cost, before the first one is taken."""

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from darts_lib.cost.step_cost import trace
from darts_lib.engine.progress import counted, duration
from darts_lib.recurrent.settings import TextConfig


class TextRun(Protocol):
    """A search or a retraining of recurrent cells."""

    LESS_MEMORY: str
    """What to change for less memory, as words that follow `less with`."""

    @property
    def config(self) -> TextConfig:
        """Return its settings."""

    @property
    def device(self) -> torch.device:
        """Return the device that it computes on."""


Run = TypeVar("Run", bound=TextRun)


def expected_cost(run: Run, step: Callable[[Run, Tensor], object]) -> tuple[float, float]:
    """Return (bytes, seconds) that `step(run, words)` takes, from the shapes of two short segments.

    Both grow with the length of the segment in equal steps, so two lengths give that of `bptt`. The
    step is taken on a copy made of fake tensors: only the shape of the words, `(time, batch)`,
    counts, and nothing of `run` is changed.
    """

    def on_words(length: int) -> Callable[[Run], object]:
        def taken(twin: Run) -> object:
            size = (length, twin.config.batch_size)
            return step(twin, torch.zeros(size, dtype=torch.int64, device=twin.device))

        return taken

    short, long = (trace(run, on_words(length)) for length in (2, 4))
    steps = (run.config.bptt - 2) / 2
    memory = [cost.memory(run.device) for cost in (short, long)]
    seconds = [cost.seconds(run.device) for cost in (short, long)]
    return (
        memory[0] + steps * (memory[1] - memory[0]),
        seconds[0] + steps * max(0.0, seconds[1] - seconds[0]),
    )


def cost_line(run: Run, step: Callable[[Run, Tensor], object], steps: int) -> str:
    """Say in words what a step adds in memory, and how long all epochs take of so many steps."""
    memory, seconds = expected_cost(run, step)
    epochs = run.config.epochs
    return (
        f"a step adds about {memory / 2**20:,.0f} MiB (less with {run.LESS_MEMORY}); about "
        f"{duration(seconds * steps * epochs)} for {counted(epochs, 'epoch')}"
    )
