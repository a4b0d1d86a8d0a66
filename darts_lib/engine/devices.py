"""The device to compute on, its memory and order of sums, and the machine of a figure."""

import contextlib
import ctypes
import math
import os
import shutil
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from darts_lib.engine.files import read_text
from darts_lib.engine.refusals import SettingsError, show

POLICY = "OMP_WAIT_POLICY"
"""How a thread of the CPU waits for another; OpenMP reads it when the process starts."""
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
FIXED_WORKSPACES = (":4096:8", ":16:8")
"""The two values with which cuBLAS adds up in one order; torch knows no others."""
CGROUP, LIMITS = Path("/sys/fs/cgroup"), ("max", "current")
"""Where Linux says how much memory a container may have, and has."""


def resolve_device(name: str) -> torch.device:
    """Return the device `auto`, `cpu`, `cuda`, `cuda:1` or `mps`; refuse what is absent."""
    if name == "auto":
        name = "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device("cuda" if torch.cuda.is_available() else name)
    mps = int(torch.backends.mps.is_available())
    present = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": mps}
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in present:
        meant = "; 'cuda' is an NVIDIA GPU" if "gpu" in name.lower() else ""
        raise SettingsError(
            f"device {show(name)} is not known{meant}: use 'auto', 'cpu', 'cuda', 'cuda:1' or "
            "'mps'."
        )
    if (device.index or 0) >= present[device.type]:
        raise SettingsError(f"device {show(name)} is not there; use 'auto' or 'cpu'.")
    return device


def auto_scale() -> str:
    """Return the scale that `auto` means on this machine: `paper` where CUDA is found."""
    return "paper" if torch.cuda.is_available() else "laptop"


def machine() -> dict[str, str | int]:
    """Describe where a figure was measured: device, threads and versions."""
    cuda = torch.cuda.is_available()
    found: dict[str, str | int] = {
        "device": torch.cuda.get_device_name() if cuda else f"CPU ({os.cpu_count()} cores)",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": sys.version.split()[0],
    }
    if POLICY in os.environ:  # a step takes twice as long where threads sleep while they wait
        found[POLICY] = os.environ[POLICY]
    return found


def wait(device: torch.device) -> None:
    """Wait until a GPU has done what it was given, so that a clock may be read; no other waits."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def warn_of_unused_gpu(name: str) -> None:
    """Print a line if `auto` is the CPU only because this torch was built without CUDA."""
    built_with = torch.version.cuda or torch.version.hip
    if name == "auto" and not built_with and shutil.which("nvidia-smi"):
        print(
            f"warning: this machine has an NVIDIA GPU, but torch {torch.__version__} is built for "
            "the CPU alone; install the torch for your CUDA as PyTorch's site says, or ask for the "
            "CPU with device='cpu'."
        )


def keep_freed_memory() -> None:
    """Let glibc's heap keep what one step frees for the next; another C library is left alone.

    A step on the CPU takes and frees up to a gigabyte. glibc hands a part of it back to the system
    each time, and taking it again costs a page fault for every 4 KiB: a tenth to a quarter of a
    fused step. The sizes are the largest that glibc takes or documents; the numbers are malloc.h's.
    """
    _glibc("mallopt", -3, 32 * 2**20)  # M_MMAP_THRESHOLD: smaller blocks come from the heap
    _glibc("mallopt", -1, 2**31 - 1)  # M_TRIM_THRESHOLD: so much stays free at its top


def give_back_memory() -> None:
    """Give what is free back to the system now."""
    _glibc("malloc_trim", 0)


def _glibc(function: str, *numbers: int) -> None:
    if sys.platform.startswith("linux"):
        library = ctypes.CDLL(None)
        if hasattr(library, "gnu_get_libc_version"):
            library[function](*numbers)


def free_memory() -> float:
    """Return the bytes that Linux could still hand out, swap and a container's limit included.

    Infinite on other systems: there asking for too much is an error, on Linux the process's end.
    """
    try:
        rows = (line.split() for line in read_text(Path("/proc/meminfo")).splitlines())
        table = {row[0]: 1024 * int(row[1]) for row in rows if len(row) > 1}
        free = float(table["MemAvailable:"] + table.get("SwapFree:", 0))
    except (SettingsError, ValueError, KeyError):
        return math.inf
    with contextlib.suppress(SettingsError, ValueError):  # ValueError: the limit is the word max
        limit, used = (int(read_text(CGROUP / f"memory.{name}")) for name in LIMITS)
        free = min(free, limit - used)
    return free


def check_memory(needed: float, what: str) -> None:
    """Raise MemoryError, whose message begins with `what`, if so many bytes are not free."""
    if needed > (free := free_memory()):
        raise MemoryError(f"{what} takes {needed / 2**30:,.1f} GiB, {free / 2**30:,.1f} are free")


@dataclass
class StepMemory:
    """Bytes at the peak of a step, beyond what was there before it."""

    peak: int = 0


@contextlib.contextmanager
def step_memory(device: torch.device, known: Iterable[Tensor]) -> Iterator[StepMemory]:
    """Measure the memory of the step taken inside; `known` are tensors that it does not add.

    On CUDA it is the peak of what is allocated. Elsewhere it is the peak of what autograd keeps for
    backward passes, each storage counted once: results that nobody keeps are not in it.
    """
    memory = StepMemory()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield memory
        memory.peak = torch.cuda.max_memory_allocated(device) - before
        return
    keepers = Counter(tensor.untyped_storage()._cdata for tensor in known)
    live = 0

    def pack(tensor: Tensor) -> Callable[[], Tensor]:
        nonlocal live
        key, size = tensor.untyped_storage()._cdata, tensor.untyped_storage().nbytes()
        live += 0 if keepers[key] else size
        keepers[key] += 1
        memory.peak = max(memory.peak, live)
        if size >= 2**20:  # else the next one of its size might end the process
            check_memory(size, "the next tensor")
        alone = tensor.detach()  # an output with its own node would be a ring that nothing frees

        def saved() -> Tensor:
            return alone

        weakref.finalize(saved, released, key, size)
        return saved

    def released(key: int, size: int) -> None:
        nonlocal live
        keepers[key] -= 1
        live -= 0 if keepers[key] else size

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved()):
        yield memory


@contextlib.contextmanager
def deterministic_algorithms(wanted: bool, device: torch.device) -> Iterator[None]:
    """Let torch use only algorithms that give the same bits each time inside, if `wanted`.

    The variable of cuBLAS stays: it is read once, when CUDA starts, which may have been too early.
    """
    if not wanted:
        yield
        return
    if device.type == "cuda" and os.environ.get(WORKSPACE) not in FIXED_WORKSPACES:
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            raise SettingsError(
                f"deterministic=True comes too late: CUDA was started without {WORKSPACE}; set "
                f"{WORKSPACE}={FIXED_WORKSPACES[0]} in the environment and start the process again."
            )
        os.environ[WORKSPACE] = FIXED_WORKSPACES[0]
    cudnn, enabled = torch.backends.cudnn, torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    before = cudnn.deterministic, cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        cudnn.deterministic, cudnn.benchmark = before
