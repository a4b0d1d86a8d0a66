"""The device that a name means, what is said of the machine, and memory that is kept."""

import os
import platform
import shutil
import subprocess
import sys

import pytest
import torch
from fuzz_tools import Patch, Said, refusal_of

from darts_lib.engine.devices import POLICY, machine, resolve_device
from darts_lib.engine.opening import opened
from darts_lib.search import SearchConfig


def put(monkeypatch: Patch, cuda: int, mps: bool) -> None:
    """Let torch find so many NVIDIA GPUs, and perhaps an Apple one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


def test_an_absent_device_is_refused_in_one_line(monkeypatch: Patch) -> None:
    put(monkeypatch, cuda=0, mps=False)
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")
    for name in ("cuda", "cuda:0", "mps", "cpu:1"):
        words = f"device '{name}' is not there; use 'auto' or 'cpu'"
        refusal_of(lambda name=name: resolve_device(name), words)


@pytest.mark.parametrize("name", ["gpu", "GPU", "", "cuda:x", "cpu:x", "xpu"])
def test_an_unknown_device_is_refused_with_those_there_are(name: str) -> None:
    words = (f"device '{name}' is not known", "use 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'")
    message = refusal_of(lambda: resolve_device(name), *words)
    assert ("'cuda' is an NVIDIA GPU" in message) == (name.lower() == "gpu")


def test_a_present_device_is_honoured(monkeypatch: Patch) -> None:
    put(monkeypatch, cuda=2, mps=False)
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    refusal_of(lambda: resolve_device("cuda:2"), "cuda:2")
    put(monkeypatch, cuda=0, mps=True)
    assert resolve_device("auto") == torch.device("mps")


def test_a_machine_names_how_threads_wait_where_it_is_set(monkeypatch: Patch) -> None:
    monkeypatch.delenv(POLICY, raising=False)
    assert set(machine()) == {"device", "threads", "torch", "python"}
    monkeypatch.setenv(POLICY, "PASSIVE")
    assert machine()["OMP_WAIT_POLICY"] == "PASSIVE"


@pytest.mark.parametrize(("cuda", "card", "device", "told"), [
    (None, True, "auto", True),
    ("13.0", True, "auto", False),
    (None, False, "auto", False),
    (None, True, "cpu", False),
])  # fmt: skip
def test_a_gpu_that_this_torch_cannot_use_is_told(
    cuda: str | None, card: bool, device: str, told: bool, monkeypatch: Patch, said: Said
) -> None:
    """Of NRCan/geo-deep-learning#490: a CPU build was installed, and nobody said so."""
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if card else None)
    with opened(SearchConfig.create(scale="laptop", device=device)):
        pass
    lines = said().splitlines()
    assert ["this machine has an NVIDIA GPU" in line for line in lines] == [True] * told


SCRIPT = """
import resource
import sys
from pathlib import Path

import torch

from darts_lib.engine import settings
from darts_lib.engine.devices import give_back_memory
from darts_lib.tools.benchmark import Size


def look():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    return faults, pages * resource.getpagesize() / 2**20


def take_two_steps():
    for _ in range(2):
        run.step(size.batch_of(run.device), size.batch_of(run.device))
    return look()


torch.set_num_threads(1)
if sys.argv[1] == "leave":
    settings.keep_freed_memory = lambda: None  # which a run calls before it begins
size = Size(8, 3, 16, 32)
run = size.start(torch.device("cpu"), order=1)
before, _ = take_two_steps()
after, kept = take_two_steps()
give_back_memory()
print(after - before, kept - look()[1])
"""

GLIBC_AT_START = {"MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_MMAP_THRESHOLD_": "131072"}
"""Left to itself glibc moves them with what is freed first, and may give back nothing or all."""


def faults_and_given_back(what: str) -> list[float]:
    """Return the page faults of two steps, and the MiB given back after them.

    In a process of its own: the setting is the whole process's, and cannot be taken back.
    """
    command = [sys.executable, "-c", SCRIPT, what]
    env = {**os.environ, **GLIBC_AT_START}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return list(map(float, done.stdout.split()))


@pytest.mark.deep
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another heap is left as it is")
def test_what_a_step_freed_is_taken_again_without_a_page_fault() -> None:
    faults, given_back = faults_and_given_back("keep")
    assert faults < faults_and_given_back("leave")[0] / 4
    assert given_back > 100, "and the end of a run gives it back"
