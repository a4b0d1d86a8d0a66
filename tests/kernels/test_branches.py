"""Branches of a step: one after the other, and while a step is recorded on streams that join."""

import contextlib
from collections.abc import Iterator

import torch
from fuzz_tools import Patch
from torch import Tensor

from darts_lib.kernels import branches
from darts_lib.kernels.branches import in_turn, side_by_side


class FakeTensor:
    """A tensor on a GPU, as far as branches look at it."""

    is_cuda, device = True, torch.device("cuda", 0)

    def __init__(self, name: str, events: list[str]) -> None:
        self.name, self.events = name, events

    def record_stream(self, stream: object) -> None:
        self.events.append(f"{self.name} is kept for {stream}")


def test_anywhere_else_they_run_one_after_the_other() -> None:
    x = torch.ones(2)
    found = side_by_side([lambda: x + 1, lambda: x * 3], [x])
    assert [value.tolist() for value in found] == [[2, 2], [3, 3]]


def test_while_recording_each_has_a_stream_that_joins_the_outer_one(monkeypatch: Patch) -> None:
    events: list[str] = []
    current = ["outer"]

    class Stream(str):
        __slots__ = ()

        def record_event(self) -> str:
            return "the start"

        def wait_event(self, other: object) -> None:
            events.append(f"{self} waits for {other}")

        wait_stream = wait_event

    @contextlib.contextmanager
    def on(stream: Stream) -> Iterator[None]:
        current.append(stream)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream(current[-1]))
    monkeypatch.setattr(torch.cuda, "Stream", lambda: Stream("inner"))
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(branches, "_idle", {})

    def branch(name: str) -> Tensor:
        events.append(f"{name} on {current[-1]}")
        return FakeTensor(name, events)  # type: ignore[return-value]

    given: Tensor = FakeTensor("given", events)  # type: ignore[assignment]
    for _ in range(2):  # the second time with the stream of the first
        events.clear()
        found = side_by_side([lambda: branch("a"), lambda: branch("b")], [given])
        assert [getattr(value, "name", "") for value in found] == ["a", "b"]
        assert events == [
            "a on outer", "inner waits for the start", "b on inner", "given is kept for inner",
            "outer waits for inner", "b is kept for outer",
        ]  # fmt: skip
        monkeypatch.setattr(torch.cuda, "Stream", None)
    events.clear()
    with in_turn():  # what is computed again later
        side_by_side([lambda: branch("a"), lambda: branch("b")], [given])
    assert events == ["a on outer", "b on outer"]
