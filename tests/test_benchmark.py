"""The benchmark runs, takes turns, and writes what it measured; no figure of speed is asserted."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from darts_lib import benchmark
from darts_lib.benchmark import main, medians


def test_variants_take_turns_the_fast_ones_more_often_and_the_first_round_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    took = {"a": iter([2, 1, 2, 4, 9]), "b": iter([5, 3, 7])}
    order: list[str] = []
    now = [0.0]

    def step(name: str) -> None:
        order.append(name)
        now[0] += next(took[name])

    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: now[0])
    steps = {name: partial(step, name) for name in ("a", "b")}
    found = medians({"kind": steps}, 2, torch.device("cpu"))
    assert found == {"kind": {"a": 3.0, "b": 5.0}}
    assert order == ["a", "b", *["a", "a", "b"] * 2]


def test_no_step_has_more_than_four_turns_however_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    clock = iter([0.0, 0.0, 0.0, 9.0, *range(100)])
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: float(next(clock)))
    steps = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    medians({"kind": steps}, 1, torch.device("cpu"))
    assert order == ["a", "b", "a", "a", "a", "a", "b"]


def test_kinds_of_step_take_turns_too() -> None:
    order: list[str] = []
    kinds = {name: {"plain": partial(order.append, name)} for name in ("pass", "step")}
    medians(kinds, 2, torch.device("cpu"))
    assert order == ["pass", "step"] * 3


def test_a_batch_that_cannot_be_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--batch", "1", "--device", "cpu"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("SettingsError: batch_size=1")


def test_a_batch_for_the_small_benchmark_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--small", "--batch", "64"])
    assert "--batch 64 is not for --small" in capsys.readouterr().err


@pytest.mark.slow
def test_the_small_benchmark_from_end_to_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--small", "--repeats", "1", "--device", "cpu", "--json", str(tmp_path / "b.json")])
    written = json.loads((tmp_path / "b.json").read_text())
    assert written["machine"]["torch"] == torch.__version__
    said = capsys.readouterr().out
    for row in (*written["supernet"], *written["recurrent"], *written["cost model"]):
        assert row["what"] in said
    rows = {row["what"]: row for row in written["supernet"]}
    # Counted from shapes, so the same on every machine.
    assert rows["kept for backward, MiB"]["plain / fused"] > 1.6
    assert rows["peak of forward + backward, MiB"]["plain / recomputed"] > 1 / 0.45
    # On the CPU `depthwise` trades one slow operation for several fast ones, at every place of it.
    assert rows["operations of forward + backward"]["plain / fused"] > 1.1
