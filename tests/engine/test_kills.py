"""Runs killed for good, at every stage of a save and at random.

`make torture` does more of the random kills and prints its figures. The seed says when to strike,
in epochs and parts of one; what the process does just then also depends on the machine.
"""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kill_tools import Moment, TinyRun, differences, ended, stops_at_random, write_data
from kind_tools import KINDS

pytestmark = pytest.mark.deep

KILLS = int(os.environ.get("DARTS_LIB_TORTURE", "3"))
SEED = int(os.environ.get("DARTS_LIB_TORTURE_SEED") or random.SystemRandom().randrange(10**6))
SHORT, LONG = 3, 3 * KILLS + 3

STAGES = {
    "before_the_write": Moment("open", "checkpoint.next.pt", 1),
    "half_written": Moment("write", "checkpoint.next.pt", 1),
    "before_the_rename": Moment("rename", "checkpoint.next.pt", 1),
    "before_the_last_is_set_aside": Moment("rename", "checkpoint.previous.pt", 1),
    "between_the_renames": Moment("rename", "checkpoint.pt", 1),
    "after_the_rename": Moment("renamed", "checkpoint.pt", 2),
    "history_half_written": Moment("write", "history.jsonl", 2),
    "result_half_written": Moment("write", "result.json", SHORT),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for runs, with the data that they read."""
    path = tmp_path_factory.mktemp("kills")
    write_data(path)
    return path


@pytest.fixture(scope="module")
def straight(folder: Path) -> Callable[[str, int], Path]:
    """Return what gives the folder of a run of a kind that was never killed."""

    def path(kind: str, epochs: int) -> Path:
        run = TinyRun(kind, folder / f"{kind}-straight-{epochs}", epochs)
        if not run.is_finished():
            run.finish()
        return run.path

    return path


def test_another_seed_ends_in_other_bits(
    folder: Path, straight: Callable[[str, int], Path]
) -> None:
    """Whatever is compared below is compared: it is equal for a reason."""
    other = TinyRun("toy", folder / "other-seed", SHORT, seed=1)
    other.finish()
    found = set(differences(other.path, straight("toy", SHORT)))
    assert {"checkpoint.pt", "history.jsonl", "result.json", "alphas.npz"} <= found


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_killed_at_any_stage_of_a_save_goes_on_to_the_same_bits(
    stage: str, folder: Path, straight: Callable[[str, int], Path]
) -> None:
    run, moment = TinyRun("toy", folder / stage, SHORT), STAGES[stage]
    assert ended(run.start(moment)) == -signal.SIGKILL, f"never came to {moment}: {run.said()}"
    assert not run.is_finished()
    assert run.kept() == moment.saves, "no epoch that was saved is lost"
    run.finish()
    assert f"resuming at epoch {moment.saves + 1} from" in run.said()
    assert differences(run.path, straight("toy", SHORT)) == []


def test_a_run_killed_before_its_first_checkpoint_may_begin_anew(folder: Path) -> None:
    run = TinyRun("toy", folder / "first", SHORT)
    assert ended(run.start(Moment("open", "config.json", 0))) == -signal.SIGKILL
    assert list(run.path.iterdir()) == []
    TinyRun("toy", run.path, SHORT, seed=1).finish()


def stop(
    kind: str, number: signal.Signals, count: int, folder: Path, reference: Path
) -> list[list[int]]:
    """Stop runs of a kind `count` times; return the epochs that each run kept."""
    numbers, started = random.Random(f"{SEED} {kind} {number}"), time.monotonic()

    def start(attempt: int) -> TinyRun:
        return TinyRun(kind, folder / f"{kind}-{number.name}-{attempt}", LONG)

    counted: list[list[int]] = []
    for run, kept in stops_at_random(start, numbers, number, count):
        counted.append(kept)
        assert differences(run.path, reference) == [], f"seed {SEED}, kept {counted}"
    print(
        f"{kind}: {sum(map(len, counted))} {number.name} in {time.monotonic() - started:.0f} s, "
        f"seed {SEED}, of {LONG} epochs finished each time: {counted}"
    )
    return counted


@pytest.mark.parametrize("kind", ["toy", *KINDS])
def test_a_run_killed_at_random_goes_on_to_the_same_bits(
    kind: str, folder: Path, straight: Callable[[str, int], Path]
) -> None:
    counted = stop(kind, signal.SIGKILL, KILLS, folder, straight(kind, LONG))
    assert sum(map(len, counted)) == KILLS
    assert all(kept == sorted(set(kept)) for kept in counted), "progress between any two"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["term", "ctrl_c"])
def test_a_run_that_is_asked_to_stop_goes_on_to_the_same_bits(
    number: signal.Signals, folder: Path, straight: Callable[[str, int], Path]
) -> None:
    assert sum(map(len, stop("search", number, 1, folder, straight("search", LONG)))) == 1
