"""The device to compute on, and the machine that a figure was measured on."""

import os
import sys

import torch

from darts_lib.engine.refusals import SettingsError, show

POLICY = "OMP_WAIT_POLICY"
"""How a thread of the CPU waits for another; OpenMP reads it when the process starts."""


def resolve_device(name: str) -> torch.device:
    """Return the device `auto`, `cpu`, `cuda`, `cuda:1` or `mps`; refuse what is absent."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    present = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
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
    """Describe where a figure was measured: device, threads and versions.

    `OMP_WAIT_POLICY` is named where it is set: a step takes about twice as long on the CPU where
    threads sleep while they wait (`PASSIVE`) in place of spinning, as torch has them.
    """
    cuda = torch.cuda.is_available()
    found: dict[str, str | int] = {
        "device": torch.cuda.get_device_name() if cuda else f"CPU ({os.cpu_count()} cores)",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": sys.version.split()[0],
    }
    if POLICY in os.environ:
        found[POLICY] = os.environ[POLICY]
    return found


def wait(device: torch.device) -> None:
    """Wait until a GPU has done what it was given, so that a clock may be read; no other waits."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
