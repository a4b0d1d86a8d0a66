"""Hundreds of steps and of epochs: memory, open files and work a step stay as they were.

No second is counted, so no test depends on how fast the machine is. Steps are taken in a process of
their own that has no freed memory: a leak would not show in it.
"""

import gc
import itertools
import os
import statistics
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzz_tools import Patch
from kill_tools import begun, ended
from kind_tools import KINDS
from step_tools import Watching, live_tensors
from toy_run import toy, toy_config

from darts_lib.engine.batches import seed_epoch
from darts_lib.engine.devices import give_back_memory

pytestmark = [
    pytest.mark.deep,
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc here"),
]

STEPS = int(os.environ.get("DARTS_LIB_LONG_STEPS", "300"))
"""`make torture` takes two thousand, which is minutes."""
EVERY = STEPS // 40
MOST = STEPS // 2
"""KiB by which a process may grow over half of the steps: one a step."""


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def look() -> tuple[int, int, int]:
    """Return a process's resident KiB, open files and live tensors."""
    tensors, _ = live_tensors()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024, open_files(), tensors


def work_of(step: Callable[[], object]) -> Counter[str]:
    """Take a step and return how often it did which operation, the backward pass's too."""
    found: Counter[str] = Counter()
    with Watching(lambda operation, _: found.update([str(operation)])):
        step()
    return found


def problems(seen: list[tuple[int, int, int]], works: list[Counter[str]]) -> list[str]:
    """Say what grew from the second quarter to the last, by medians, and if the work changed."""
    quarter, found = len(seen) // 4, []
    for column, (name, most) in enumerate({"resident KiB": MOST, "files": 0, "tensors": 0}.items()):
        # Medians: over 2,000 steps a look now and then sees two tensors more.
        values = [each[column] for each in seen]
        before = statistics.median_low(values[quarter : 2 * quarter])
        after = statistics.median_low(values[-quarter:])
        if after - before > most:
            found.append(f"{name}: {before} to {after}")
    if not works[0] or works[0] != works[1]:
        found.append(f"a step's work: {works[0].total()} to {works[1].total()} operations")
    return found


def a_search(order: int) -> Callable[[], object]:
    """Return the step of a search, on the next of a few batches."""
    run, _ = KINDS["search"].start(order=order, batch_size=2, max_images=200, max_steps=8)
    turn = itertools.cycle(list(run.batches(seed_epoch(0, 0, run.device))))
    return lambda: run.step(*next(turn))


def a_leak(kind: str) -> Callable[[], object]:
    """Return a step that keeps or does a bit more each time: what the tests below must notice."""
    kept: list[object] = []
    what: dict[str, Callable[[], object]] = {
        "memory": lambda: os.urandom(4096),
        "tensors": lambda: torch.zeros(1),
        "files": lambda: os.open(os.devnull, os.O_RDONLY) if len(kept) % 50 == 49 else None,
        "work": lambda: [torch.zeros(1) + 1 for _ in range(len(kept) // 100)] and None,
    }

    def step() -> None:
        torch.zeros(1)
        kept.append(what[kind]())

    return step


def take_steps(start: Callable[[Any], Callable[[], object]], what: object) -> None:
    """Take all steps and print what grew; in a process of its own."""
    gc.collect()
    gc.freeze()  # what was imported is looked through no more: a look is quick
    step = start(what)
    seen, works = [], []
    for number in range(1, STEPS + 1):
        if number in (EVERY + 1, STEPS):
            works.append(work_of(step))
            give_back_memory()  # what was freed so far: a leak would hide in it
        else:
            step()
        if number % EVERY == 0:
            seen.append(look())
    for problem in problems(seen, works):
        print(problem)


@pytest.mark.parametrize(("start", "what", "words"), [
    (a_search, 1, ""), (a_search, 2, ""),
    (a_leak, "memory", "resident KiB: "), (a_leak, "tensors", "tensors: "),
    (a_leak, "files", "files: "), (a_leak, "work", "a step's work: "),
])  # fmt: skip
def test_a_search_does_not_grow_over_hundreds_of_steps_and_a_leak_is_noticed(
    start: Callable[[Any], Callable[[], object]], what: object, words: str, tmp_path: Path
) -> None:
    assert ended(begun(tmp_path / "log", take_steps, start, what)) == 0
    found = (tmp_path / "log").read_text().splitlines()
    assert [line.startswith(words) for line in found] == [True] * bool(words), found


EPOCHS = 200


def test_two_hundred_epochs_leave_as_much_as_that_times_one(path: Path, monkeypatch: Patch) -> None:
    sizes: list[dict[str, int]] = []
    files, counts, histories, renames, rename = [], [], [], list[object](), os.replace
    monkeypatch.setattr(os, "fsync", lambda _: None)  # a disk's time, which nothing here needs
    monkeypatch.setattr(os, "replace", lambda *names: renames.append(names) or rename(*names))

    def note(_: int) -> None:
        sizes.append({file.name: file.stat().st_size for file in path.iterdir()})
        histories.append((path / "history.jsonl").read_bytes())
        files.append(open_files())
        counts.append(len(renames))
        renames.clear()

    result = toy(toy_config(path, epochs=EPOCHS, max_steps=1, batch_size=2), note)
    assert (len(result.history), len(result.alphas["normal"])) == (EPOCHS, EPOCHS + 1)
    usual = frozenset(["config.json", "checkpoint.pt", "checkpoint.previous.pt", "history.jsonl"])
    assert {frozenset(each) for each in sizes[1:]} == {usual | {"alphas.npz", "genotype.json"}}
    assert len(set(files)) == 1, "open files"
    assert len(set(counts[1:])) == 1, "files written in an epoch"
    for before, after in itertools.pairwise(histories):
        assert after.startswith(before), "a line that was written stays"
        assert after.count(b"\n") == before.count(b"\n") + 1
    for name in sizes[-1]:
        size = [each[name] for each in sizes[1:]]
        early, late = size[98] - size[48], size[198] - size[148]
        assert late <= 1.05 * early + 100, f"{name}: {early} bytes in 50 epochs, later {late}"
