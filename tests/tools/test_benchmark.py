"""The benchmark runs and writes what it measured; no figure of speed is asserted."""

import time
from functools import partial
from pathlib import Path

import pytest
import torch
from fuzz_tools import Patch, Printed, refusal_of

from darts_lib.engine.folder import read_json
from darts_lib.tools.benchmark import Size, main, medians, sizes

CPU = torch.device("cpu")


def test_variants_take_turns_the_fast_ones_more_often_without_the_first(monkeypatch: Patch) -> None:
    took = {"a": iter([2, 1, 2, 4, 9]), "b": iter([5, 3, 7])}
    order: list[str] = []
    now = [0.0]

    def step(name: str) -> None:
        order.append(name)
        now[0] += next(took[name])

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    steps = {name: partial(step, name) for name in "ab"}
    assert medians({"kind": steps}, 2, CPU) == {"kind": {"a": 3.0, "b": 5.0}}
    assert order == ["a", "b", *["a", "a", "b"] * 2]


def test_kinds_take_turns_and_no_step_more_than_four_turns(monkeypatch: Patch) -> None:
    order: list[str] = []
    clock = iter([0.0, 0.0, 0.0, 9.0, *range(100)])
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    medians({"kind": {name: partial(order.append, name) for name in "ab"}}, 1, CPU)
    assert order == ["a", "b", "a", "a", "a", "a", "b"]
    order.clear()
    kinds = {name: {"plain": partial(order.append, name)} for name in ("pass", "step")}
    medians(kinds, 2, CPU)
    assert order == ["pass", "step"] * 3


@pytest.mark.parametrize(("device", "free", "given", "batch"), [
    ("cpu", 0, 0, 16),
    ("cpu", 0, 64, 64),
    ("cuda", 80, 0, 64),
    ("cuda", 8, 0, 16),
])  # fmt: skip
def test_the_papers_batch_is_taken_where_a_gpu_has_the_memory(
    device: str, free: int, given: int, batch: int, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free * 2**30, 80 * 2**30))
    assert [size.batch for size in sizes(torch.device(device), given)] == [64, batch]


@pytest.mark.parametrize(("options", "words"), [
    ("--batch 1", "batch_size=1"),
    ("--batch -3", "--batch -3: must be at least 0"),
    ("--repeats 0", "--repeats 0: must be at least 1"),
    ("--small --batch 64", "--batch 64 is not for --small"),
])  # fmt: skip
def test_a_wrong_option_is_refused(options: str, words: str) -> None:
    refusal_of(lambda: main([*options.split(), "--device", "cpu"]), words)


@pytest.mark.deep
def test_the_small_benchmark_from_end_to_end(tmp_path: Path, capsys: Printed) -> None:
    main(["--small", "--repeats", "1", "--device", "cpu", "--json", str(tmp_path / "b.json")])
    written = read_json(tmp_path / "b.json")
    assert written["machine"]["torch"] == torch.__version__
    said = capsys.readouterr().out
    for row in (*written["supernet"], *written["recurrent"]):
        assert row["what"] in said
    rows = {row["what"]: row for row in written["supernet"]}
    assert rows["the same, plain in channels_last, s"].keys() >= {"plain", "fused"}
    assert rows["second-order step, s"].keys() >= {"plain", "fused", "recomputed"}
    # Counted from shapes, so the same on every machine.
    assert rows["kept for backward, MiB"]["plain / fused"] > 1.6


def test_what_is_compared_stays_on_the_threads_that_torch_has() -> None:
    torch.set_num_threads(2)  # a laptop's search would take one
    Size(4, 3, 8, 4).start(CPU)
    assert torch.get_num_threads() == 2
