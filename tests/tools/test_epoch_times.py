"""Timing whole epochs: what is written, and how it is extrapolated."""

from pathlib import Path

import pytest
from fuzz_tools import Patch, Printed, refusal_of

from darts_lib.engine.folder import read_json
from darts_lib.tools import epoch_times


def test_runs_are_timed_and_written(tmp_path: Path, capsys: Printed, monkeypatch: Patch) -> None:
    monkeypatch.setattr(epoch_times, "STEPS", 3)
    for config in (epoch_times.SearchConfig, epoch_times.RetrainConfig):
        few = {"max_images": 80, "batch_size": 32, "channels": 2, "layers": 2}
        monkeypatch.setattr(config, "LAPTOP", config.LAPTOP | few)
    none = ["--epochs", "0"]
    refusal_of(lambda: epoch_times.main(none), "--epochs 0: must be at least 1")
    options = "--scale laptop --dataset digits --epochs 2 --json"
    epoch_times.main([*options.split(), str(tmp_path / "times.json")])
    content = read_json(tmp_path / "times.json")
    assert content["machine"]["device"].startswith("CPU")
    counts = [(row["run"], row["all epochs"]) for row in content["epochs"]]
    assert counts == list(zip(epoch_times.RUNS, (50, 50, 600), strict=True))
    for row in content["epochs"]:
        assert (row["switches"], row["epochs timed"]) == ("eager float32", 2)
        assert row["step, s"] > 0
        assert row["all, h"] == pytest.approx(row["all epochs"] * row["epoch, s"] / 3600)
    said = capsys.readouterr().out
    assert said.count("epoch 2: ") == 3
    assert "| search, second order | eager float32 |" in said


def test_the_first_epoch_counts_only_if_it_is_alone(monkeypatch: Patch) -> None:
    seconds = iter([9.0, 2.0, 3.0, 4.0, 8.0])

    def epoch(run: object, epoch: int) -> dict[str, float]:
        return {"seconds": next(seconds)}

    monkeypatch.setattr(epoch_times.Retraining, "epoch", epoch)
    given = {"scale": "laptop", "max_images": 80, "batch_size": 40}  # two batches an epoch
    row = epoch_times.time_run("retraining", given, 4)
    assert (row["epoch, s"], row["all, h"]) == (3.0, 0.5)
    assert epoch_times.time_run("retraining", given, 1)["epoch, s"] == 8.0
