"""Steps that are timed take turns; their clock is one of our own here."""

from functools import partial

import pytest
import torch

from darts_lib.cost import timing
from darts_lib.cost.timing import medians


def test_variants_take_turns_the_fast_ones_more_often_and_the_first_round_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    took = {"a": iter([2, 1, 2, 4, 9]), "b": iter([5, 3, 7])}
    order: list[str] = []
    now = [0.0]

    def step(name: str) -> None:
        order.append(name)
        now[0] += next(took[name])

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    steps = {name: partial(step, name) for name in ("a", "b")}
    found = medians({"kind": steps}, 2, torch.device("cpu"))
    assert found == {"kind": {"a": 3.0, "b": 5.0}}
    assert order == ["a", "b", *["a", "a", "b"] * 2]


def test_kinds_take_turns_and_no_step_more_than_four_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    clock = iter([0.0, 0.0, 0.0, 9.0, *range(100)])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(clock)))
    medians({"kind": {name: partial(order.append, name) for name in "ab"}}, 1, torch.device("cpu"))
    assert order == ["a", "b", "a", "a", "a", "a", "b"]
    order.clear()
    kinds = {name: {"plain": partial(order.append, name)} for name in ("pass", "step")}
    medians(kinds, 2, torch.device("cpu"))
    assert order == ["pass", "step"] * 3
