"""The epoch's line, durations in words, and the bar that only a person sees."""

import math
import sys

import pytest
from fuzz_tools import Patch, Printed, Said

from darts_lib.engine import progress
from darts_lib.engine.progress import EpochLine, TransferLines, duration, live


@pytest.mark.parametrize(("seconds", "words"), [
    (0, "0 s"), (99.4, "99 s"), (99.6, "1 min 39 s"), (200, "3 min 20 s"),
    (599, "10 min"), (3600, "60 min"), (7500, "2 h 05 min"),
])  # fmt: skip
def test_durations_read_as_a_person_writes_them(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_the_epochs_line_counts_on_from_where_the_run_was(said: Said, monkeypatch: Patch) -> None:
    clock = iter([100.0, 110.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    line = EpochLine(epochs=12, first=8)
    line({"train_loss": 0.91234, "skips": 2, "seconds": math.nan})
    assert said() == "epoch  9/12  train_loss 0.9123  skips 2  seconds nan  30 s left\n"


def test_only_where_somebody_looks_on_is_there_a_bar(capsys: Printed, monkeypatch: Patch) -> None:
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    assert list(live([1, 2, 3])) == [1, 2, 3]
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("JPY_SESSION_NAME", "03_search.ipynb")
    assert list(live([1, 2, 3])) == [1, 2, 3]
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "step:" in shown.err
    assert "/3" in shown.err


def test_a_slow_download_tells_size_speed_and_the_time_left(monkeypatch: Patch, said: Said) -> None:
    """Of pytorch/vision#9536: at 70 kB/s a person should see so, and choose another way."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with TransferLines(total=170_000_000, unit="B", unit_scale=True) as lines:
        for second in range(1, 101):
            now[0] = float(second)
            lines.update(70_000)
    lines = said().splitlines()
    assert len(lines) == 5
    assert lines[0] == "1 of 170 MB, 0.07 MB/s, 40 min left"
    unknown = TransferLines()
    now[0] += 20
    unknown.update(2_000_000)
    assert said() == "2 MB, 0.10 MB/s\n"
