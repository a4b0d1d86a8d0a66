"""The index batches of an epoch: their lengths, their order, and what cannot fill one."""

import pytest
import torch

from darts_lib.engine.batches import epoch_batches
from darts_lib.engine.refusals import SettingsError


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("count", "batch_size", "lengths"),
    [(128, 64, [64, 64]), (65, 64, [65]), (129, 64, [64, 65]), (130, 64, [64, 64, 2]), (2, 2, [2])],
)
@pytest.mark.parametrize("seed", [None, 0])
def test_batches_cover_every_picture_once(
    count: int, batch_size: int, lengths: list[int], seed: int | None
) -> None:
    batches = epoch_batches(count, batch_size, None if seed is None else seeded(seed))
    assert [len(batch) for batch in batches] == lengths
    joined = torch.cat(batches)
    assert joined.dtype == torch.int64
    assert sorted(joined.tolist()) == list(range(count))
    assert (joined.tolist() == list(range(count))) == (seed is None or count == 2)


def test_shuffling_follows_the_generator() -> None:
    generator = seeded(3)
    first, second = (torch.cat(epoch_batches(100, 10, generator)) for _ in range(2))
    assert torch.equal(first, torch.cat(epoch_batches(100, 10, seeded(3))))
    assert not torch.equal(first, second)
    assert not torch.equal(first, torch.cat(epoch_batches(100, 10, seeded(4))))


def test_training_needs_one_full_batch_of_two_and_evaluation_does_not() -> None:
    with pytest.raises(SettingsError, match=r"64 .* the 56 pictures.* batch_size of 56 or less"):
        epoch_batches(56, 64, seeded(0))
    assert [batch.tolist() for batch in epoch_batches(3, 64, None)] == [[0, 1, 2]]
    assert [batch.tolist() for batch in epoch_batches(1, 64, None)] == [[0]]
