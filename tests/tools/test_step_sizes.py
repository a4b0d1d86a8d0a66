"""The sizes at which steps are compared."""

import pytest
import torch

from darts_lib.tools.benchmark import sizes


@pytest.mark.parametrize(
    ("device", "free", "given", "batch"),
    [("cpu", 0, 0, 16), ("cpu", 0, 64, 64), ("cuda", 80, 0, 64), ("cuda", 8, 0, 16)],
)
def test_the_papers_batch_is_taken_where_a_gpu_has_the_memory(
    device: str, free: int, given: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free * 2**30, 80 * 2**30))
    assert [size.batch for size in sizes(torch.device(device), given)] == [64, batch]
