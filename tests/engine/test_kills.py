"""Runs killed for good at random; what a kill at each moment of a save leaves is in test_runs.py.

`make torture` does more of the random kills and prints its figures. The seed says when to strike,
in epochs and parts of one; what the process does just then also depends on the machine.
"""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from kill_tools import TinyRun, differences, stop_at_random, write_data
from kind_tools import KINDS

pytestmark = pytest.mark.deep

KILLS = int(os.environ.get("DARTS_LIB_TORTURE", "3"))
SEED = int(os.environ.get("DARTS_LIB_TORTURE_SEED") or random.SystemRandom().randrange(10**6))
EPOCHS = 3 * KILLS + 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("kills"))


def stop(kind: str, number: signal.Signals, count: int, folder: Path) -> None:
    """Stop runs of a kind `count` times, with progress between any two; compare how they end."""
    numbers, begun = random.Random(f"{SEED} {kind} {number}"), time.monotonic()
    reference, counted = TinyRun(kind, folder / f"{kind}-straight", EPOCHS), list[list[int]]()
    reference.finish()  # or read back
    while (missing := count - sum(map(len, counted))) > 0:
        # One run is enough, unless this process slept while it went on to its end.
        assert len(counted) < count + 3
        run, kept = TinyRun(kind, folder / f"{kind}-{number.name}-{len(counted)}", EPOCHS), []
        while len(kept) < missing and not run.is_finished():
            found = stop_at_random(run, numbers, number)
            kept += [] if found is None else [found]
        run.finish()
        counted.append(kept)
        assert kept == sorted(set(kept))
        assert differences(run.path, reference.path) == [], f"seed {SEED}, kept {counted}"
    print(
        f"{kind}: {sum(map(len, counted))} {number.name} in {time.monotonic() - begun:.0f} s, "
        f"seed {SEED}, of {EPOCHS} epochs finished each time: {counted}"
    )


@pytest.mark.parametrize("kind", ["toy", *KINDS])
def test_a_run_killed_at_random_goes_on_to_the_same_bits(kind: str, folder: Path) -> None:
    stop(kind, signal.SIGKILL, KILLS, folder)


def test_a_run_that_is_asked_to_stop_goes_on_to_the_same_bits(folder: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        stop("search", number, 1, folder)
