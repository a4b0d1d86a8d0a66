"""The loop over epochs: every epoch once, saved before it is told, gone on with where it was."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from darts_lib.engine.epochs import run_epochs
from darts_lib.engine.folder import Progress, RunFolder
from darts_lib.engine.run_files import read_alphas, read_history


class Counting:
    """A run whose state is one number and one alpha, both counted up."""

    def __init__(self) -> None:
        self.total = 0.0
        self.alphas = {"normal": torch.zeros(1, 2)}

    def epoch(self, epoch: int) -> dict[str, Any]:
        self.total += epoch + 1
        self.alphas["normal"] += 1
        return {"epoch": epoch + 1, "loss": self.total, "seconds": 0.0}

    def state(self) -> dict[str, Any]:
        return {"total": self.total, "alphas": dict(self.alphas)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.total = state["total"]
        self.alphas["normal"].copy_(state["alphas"]["normal"])


def run(path: Path, epochs: int, **given: Any) -> tuple[Progress, Counting]:
    path.mkdir(exist_ok=True)
    counting = Counting()
    alphas: dict[str, Tensor] | None = counting.alphas if given.pop("with_alphas", True) else None
    progress = run_epochs(
        counting, RunFolder(path), epochs, ["loss"], given.get("on_epoch"), alphas
    )
    return progress, counting


def test_every_epoch_is_run_saved_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved_by_then: list[int] = []

    def on_epoch(row: dict[str, Any]) -> None:
        saved_by_then.append(len(read_history(tmp_path / "run")))

    progress, counting = run(tmp_path / "run", 3, on_epoch=on_epoch)
    assert [row["loss"] for row in progress.history] == [1, 3, 6]
    assert saved_by_then == [1, 2, 3], "an epoch is told when it is on the disk"
    assert counting.total == 6
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[:2] for line in lines] == [
        ["epoch 1/3", "loss 1"],
        ["epoch 2/3", "loss 3"],
        ["epoch 3/3", "loss 6"],
    ]
    assert read_alphas(tmp_path / "run")["normal"][:, 0, 0].tolist() == [0, 1, 2, 3]


def test_a_stopped_run_goes_on_with_its_state(tmp_path: Path) -> None:
    run(tmp_path / "run", 2)
    told: list[int] = []
    progress, counting = run(tmp_path / "run", 4, on_epoch=lambda row: told.append(row["epoch"]))
    assert told == [3, 4]
    assert [row["loss"] for row in progress.history] == [1, 3, 6, 10]
    assert counting.total == 10
    assert read_alphas(tmp_path / "run")["normal"][:, 0, 0].tolist() == [0, 1, 2, 3, 4]


def test_a_run_without_alphas_records_none(tmp_path: Path) -> None:
    progress, _ = run(tmp_path / "run", 1, with_alphas=False)
    assert progress.alphas == {}
    assert not (tmp_path / "run" / "alphas.npz").exists()
