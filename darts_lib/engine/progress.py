"""What a person sees while a run goes on: a line an epoch, and a bar where somebody looks on."""

import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Self, TypeVar

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


def counted(number: int, what: str) -> str:
    """Write a number with its noun: 1 step, 2,000 steps."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def several(names: Iterable[str], most: int = 10) -> str:
    """Write the first names, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more


class EpochLine:
    """Prints one line an epoch with the time left; a line survives every front end and log."""

    def __init__(self, epochs: int, first: int = 0) -> None:
        self.epochs, self.first, self.done = epochs, first, first
        self.started = time.monotonic()

    def __call__(self, figures: dict[str, float]) -> None:
        """Print `epoch 3/50  train_loss 0.912 ...  12 s left` for one finished epoch."""
        self.done += 1
        spent = time.monotonic() - self.started
        left = spent / (self.done - self.first) * (self.epochs - self.done)
        values = "  ".join(
            f"{name} {int(value) if float(value).is_integer() else f'{value:.4g}'}"
            for name, value in figures.items()
        )
        number = f"{self.done:>{len(str(self.epochs))}}"
        print(f"epoch {number}/{self.epochs}  {values}  {duration(left)} left", flush=True)


def live(steps: Sequence[Item]) -> Iterable[Item]:
    """Yield an epoch's steps under a bar, which is gone when the epoch's line is printed."""
    bar: Iterable[Item] = tqdm(steps, "step", leave=False, disable=not watched())
    return bar


def watched() -> bool:
    """Say whether a person looks on, for whom a bar may move: on a terminal or in JupyterLab.

    The Jupyter server sets JPY_SESSION_NAME; papermill, nbval, nbconvert do not: no log has bars.
    """
    return sys.stderr.isatty() or "JPY_SESSION_NAME" in os.environ


class TransferLines:
    """Tells a download in lines, where tqdm's bar would fill a log; used as tqdm is."""

    SECONDS = 20
    """Between two lines."""

    def __init__(self, total: int | None = None, **_: object) -> None:
        self.total, self.done = total, 0
        self.started = self.told = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, count: int) -> None:
        """Print `12 of 170 MB, 0.07 MB/s, 38 min left` if the last line is old enough."""
        self.done += count
        now = time.monotonic()
        if now - self.told < self.SECONDS:
            return
        self.told, speed = now, self.done / (now - self.started)
        size = f" of {self.total / 1e6:.0f}" if self.total else ""
        left = f", {duration((self.total - self.done) / speed)} left" if self.total else ""
        print(f"{self.done / 1e6:.0f}{size} MB, {speed / 1e6:.2f} MB/s{left}", flush=True)
