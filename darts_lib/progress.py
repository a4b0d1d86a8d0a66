"""What a person sees while a run goes on: a line an epoch, and a bar where somebody looks on."""

import math
import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def duration(seconds: float) -> str:
    """Write seconds as a person would: 41 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 10:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


class EpochLine:
    """Prints one line an epoch with the time left; a line survives every front end and log."""

    def __init__(self, epochs: int, first: int = 0) -> None:
        self.epochs, self.done, self.started = epochs, first, time.monotonic()
        self.first = first

    def __call__(self, figures: dict[str, float]) -> None:
        """Print `epoch 3/50  train_loss 0.912 ...  12 s left` for one finished epoch."""
        self.done += 1
        spent = time.monotonic() - self.started
        left = spent / (self.done - self.first) * (self.epochs - self.done)
        values = "  ".join(f"{name} {_short(value)}" for name, value in figures.items())
        width = len(str(self.epochs))
        print(
            f"epoch {self.done:>{width}}/{self.epochs}  {values}  {duration(left)} left", flush=True
        )


def _short(value: float) -> str:
    if isinstance(value, int) or (math.isfinite(value) and value == int(value)):
        return str(int(value))
    return f"{value:.4g}"


def live(steps: Sequence[Item]) -> Iterable[Item]:
    """Yield an epoch's steps under a bar, on a terminal or in JupyterLab only.

    The Jupyter server sets JPY_SESSION_NAME; papermill, nbval and nbconvert do not, so no bar gets
    into a log or a stored output. The bar is gone when the epoch's line is printed.
    """
    watched = sys.stderr.isatty() or "JPY_SESSION_NAME" in os.environ
    bar: Iterable[Item] = tqdm(steps, "step", leave=False, disable=not watched)
    return bar
