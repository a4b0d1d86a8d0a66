"""The same seed, the same bits: an epoch's randomness, and sums that keep to one order."""

import contextlib
import os
from collections.abc import Iterator

import torch

from darts_lib.engine.refusals import SettingsError


def seed_epoch(seed: int, epoch: int, device: torch.device, attempt: int = 0) -> torch.Generator:
    """Seed all randomness of one epoch and return the generator for the device.

    The randomness of an epoch is a function of (seed, epoch, attempt) alone, `attempt` being how
    often the epoch was given up before. A run that was killed and continued therefore draws what
    it would have drawn, and no random state needs to be stored.
    """
    mixed = (seed * 1_000_003 + epoch * 7919 + attempt * 15_485_863 + 1) % 2**31
    torch.manual_seed(mixed)
    return torch.Generator(device=device).manual_seed(mixed)


WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
FIXED_WORKSPACES = (":4096:8", ":16:8")
"""The two values with which cuBLAS adds up in one order; torch knows no others."""


@contextlib.contextmanager
def deterministic_algorithms(wanted: bool, device: torch.device) -> Iterator[None]:
    """Let torch use only algorithms that give the same bits each time inside, if `wanted`.

    The switches of torch and cuDNN are put back, also after an error. The variable of cuBLAS stays:
    it is read once, when CUDA starts. Raises SettingsError where CUDA has started without it.
    """
    if not wanted:
        yield
        return
    if device.type == "cuda":
        _fix_workspace()
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


def _fix_workspace() -> None:
    if os.environ.get(WORKSPACE) in FIXED_WORKSPACES:
        return
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        raise SettingsError(
            f"deterministic=True comes too late: CUDA was started without {WORKSPACE}; set "
            f"{WORKSPACE}={FIXED_WORKSPACES[0]} in the environment and start the process again."
        )
    os.environ[WORKSPACE] = FIXED_WORKSPACES[0]
