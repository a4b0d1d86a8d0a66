"""The index batches of an epoch: their lengths, their order, and what cannot fill one."""

import pytest
import torch
from fuzz_tools import refusal_of

from darts_lib.engine.batches import epoch_batches


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("count", "lengths"), [
    (128, [64, 64]), (65, [65]), (129, [64, 65]), (130, [64, 64, 2]), (3, [3]), (1, [1]),
])  # fmt: skip
def test_batches_cover_every_picture_once(count: int, lengths: list[int]) -> None:
    batches = epoch_batches(count, 64, None)
    assert torch.cat(batches).tolist() == list(range(count))
    size = min(64, count)
    shuffled = epoch_batches(count, size, seeded(0))
    assert [len(batch) for batch in batches] == [len(batch) for batch in shuffled] == lengths
    assert torch.cat(shuffled).dtype == torch.int64
    assert sorted(torch.cat(shuffled).tolist()) == list(range(count))


def test_shuffling_follows_the_generator() -> None:
    generator = seeded(3)
    first, second = (torch.cat(epoch_batches(100, 10, generator)) for _ in range(2))
    assert torch.equal(first, torch.cat(epoch_batches(100, 10, seeded(3))))
    assert not torch.equal(first, second)
    assert not torch.equal(first, torch.cat(epoch_batches(100, 10, seeded(4))))


def test_training_needs_one_full_batch() -> None:
    words = ("64 is more than the 56 pictures", "batch_size of 56 or less")
    refusal_of(lambda: epoch_batches(56, 64, seeded(0)), *words)
