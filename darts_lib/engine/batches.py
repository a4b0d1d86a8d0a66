"""An epoch's randomness and its batches, as indices: how they are drawn, what cannot fill one."""

import torch
from torch import Tensor

from darts_lib.engine.refusals import SettingsError


def seed_epoch(seed: int, epoch: int, device: torch.device, attempt: int = 0) -> torch.Generator:
    """Seed all randomness of one epoch and return the generator for the device.

    It is a function of (seed, epoch, attempt) alone, `attempt` being how often the epoch was given
    up before: a run that goes on draws what it would have drawn, and stores no random state.
    """
    mixed = (seed * 1_000_003 + epoch * 7919 + attempt * 15_485_863 + 1) % 2**31
    torch.manual_seed(mixed)
    return torch.Generator(device=device).manual_seed(mixed)


def check_batch_size(batch_size: int, count: int, what: str = "pictures to train on") -> None:
    """Raise SettingsError if `count` pictures are less than a batch; `what` says which."""
    if count < batch_size:
        raise SettingsError(
            f"batch_size={batch_size} is more than the {count} {what}: use a batch_size of "
            f"{max(2, count)} or less, or more pictures."
        )


def epoch_batches(count: int, batch_size: int, generator: torch.Generator | None) -> list[Tensor]:
    """Return the index batches (int64, on the CPU) of one pass over `count` pictures.

    Shuffled with a generator (training), in order without (evaluation). A last batch of one is
    merged into the batch before it: batch statistics need two. Training needs a whole batch.
    """
    if generator is None:
        order = torch.arange(count)
    else:
        check_batch_size(batch_size, count)
        order = torch.randperm(count, generator=generator, device=generator.device).cpu()
    batches = [order[start : start + batch_size] for start in range(0, count, batch_size)]
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches
