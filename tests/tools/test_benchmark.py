"""The benchmark runs and writes what it measured; no figure of speed is asserted."""

import json
from pathlib import Path

import pytest
import torch

from darts_lib.tools.benchmark import main


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
    assert rows["the same, plain in channels_last, s"].keys() >= {"plain", "fused"}
    # Counted from shapes, so the same on every machine.
    assert rows["kept for backward, MiB"]["plain / fused"] > 1.6
    assert rows["peak of forward + backward, MiB"]["plain / recomputed"] > 1 / 0.45
    # On the CPU `depthwise` trades one slow operation for several fast ones, at every place of it.
    assert rows["operations of forward + backward"]["plain / fused"] > 1.1
