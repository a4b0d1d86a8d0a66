"""What a step frees stays in the process for the next step, and a run's end gives it back.

Both ways have a process of their own: the setting is the whole process's, and cannot be taken back.
"""

import os
import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource
import sys
from pathlib import Path

import torch

from darts_lib.engine import settings
from darts_lib.engine.devices import give_back_memory
from darts_lib.tools.benchmark import Size


def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


torch.set_num_threads(1)
if sys.argv[1] == "leave":
    settings.keep_freed_memory = lambda: None  # which a run calls before it begins
size = Size(8, 3, 16, 32)
run = size.start(torch.device("cpu"), order=1)


def step():
    run.step(size.batch_of(run.device), size.batch_of(run.device))


for _ in range(2):
    step()
before = faults()
for _ in range(2):
    step()
after = faults()
kept = resident()
give_back_memory()
print(after - before, kept, resident())
"""

GLIBC_AT_START = {"MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_MMAP_THRESHOLD_": "131072"}
"""Left to itself glibc moves them with what is freed first, and may give back nothing or all."""

pytestmark = [
    pytest.mark.deep,
    pytest.mark.skipif(
        platform.libc_ver()[0] != "glibc", reason="the heap of another C library is left as it is"
    ),
]


def figures(what: str) -> tuple[int, float, float]:
    command = [sys.executable, "-c", SCRIPT, what]
    env = {**os.environ, **GLIBC_AT_START}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    found = done.stdout.split()
    return int(found[0]), float(found[1]), float(found[2])


def test_what_a_step_freed_is_taken_again_without_a_page_fault() -> None:
    found, kept, left = figures("keep")
    assert found < figures("leave")[0] / 4
    assert kept - left > 100, "and the end of a run gives it back"
