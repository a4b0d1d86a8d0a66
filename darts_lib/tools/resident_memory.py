"""How much memory a step of a search adds, as the system measures it.

On the CPU that is the resident memory of a process of its own, which this module is run as:

    python -m darts_lib.measuring.resident_memory CHANNELS LAYERS PIXELS BATCH RECOMPUTE
"""

import subprocess
import sys
from dataclasses import astuple
from pathlib import Path

import torch

from darts_lib.engine.heap import keep_freed_memory
from darts_lib.tools.step_sizes import Size, random_step


def measured_memory(size: Size, device: torch.device, recompute: bool = False) -> int:
    """Measure the bytes that a second-order step adds at its peak; on the CPU Linux only."""
    if device.type == "cuda":
        run = size.start(device, order=2, recompute=recompute)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        random_step(size, run)
        return torch.cuda.max_memory_allocated(device) - before
    numbers = [str(number) for number in (*astuple(size), int(recompute))]
    command = [sys.executable, "-m", "darts_lib.measuring.resident_memory", *numbers]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _grown(size: Size, recompute: bool) -> int:
    """Return by how many bytes this process grows in two steps."""
    cpu = torch.device("cpu")
    torch.set_num_threads(1)
    keep_freed_memory()  # as a run does
    tiny = Size(2, 1, 8, 2)  # libraries load what they need
    random_step(tiny, tiny.start(cpu, order=2))
    run = size.start(cpu, order=2, recompute=recompute)
    before = _status("VmRSS")
    for _ in range(2):
        random_step(size, run)
    return _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


if __name__ == "__main__":
    *shape, again = map(int, sys.argv[1:])
    print(_grown(Size(*shape), bool(again)))
