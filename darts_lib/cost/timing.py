"""Median seconds of steps that take turns, so that a busy minute strikes all of them."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch

from darts_lib.engine.devices import wait

Step = Callable[[], object]
Kinds = Mapping[str, Mapping[str, Step]]
"""For each kind of step, by its name in the table, the variants of it."""


def medians(kinds: Kinds, repeats: int, device: torch.device) -> dict[str, dict[str, float]]:
    """Return each step's median seconds; they take turns, and the first rounds do not count.

    A step that is k times as fast as the slowest of its kind gets k turns a round, up to four: what
    disturbs the machine for a second would else decide its median.
    """
    turns = {what: _turns(steps, device) for what, steps in kinds.items()}
    taken: dict[str, dict[str, list[float]]] = {w: {n: [] for n in s} for w, s in kinds.items()}
    for _ in range(repeats):
        for what, steps in kinds.items():
            for name, step in steps.items():
                taken[what][name] += [seconds(step, device) for _ in range(turns[what][name])]
    return {w: {n: statistics.median(s) for n, s in each.items()} for w, each in taken.items()}


def _turns(steps: Mapping[str, Step], device: torch.device) -> dict[str, int]:
    rounds = 3 if device.type == "cuda" else 1  # the first is eager there, the second records
    for _ in range(rounds):
        last = {name: seconds(step, device) for name, step in steps.items()}
    slowest = max(last.values())
    return {name: max(1, int(min(4, slowest / max(own, 1e-9)))) for name, own in last.items()}


def seconds(step: Step, device: torch.device) -> float:
    """Time one step, to the end of what it has sent to the device."""
    started = time.perf_counter()
    step()
    wait(device)
    return time.perf_counter() - started
