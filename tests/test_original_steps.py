"""Two independent routes: the original's steps and ours move weights and alphas to one place."""

import pytest
import torch

from darts_lib.original_steps import OriginalSteps
from darts_lib.search_step import SearchConfig, SearchStep
from darts_lib.training import Batch

CPU = torch.device("cpu")


def batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(6, 3, 8, 8, generator=generator), torch.arange(6)


@pytest.mark.parametrize("order", [1, 2])
def test_a_step_as_the_original_takes_it_ends_where_ours_does(order: int) -> None:
    torch.set_default_dtype(torch.float64)
    config = SearchConfig.create(scale="laptop", channels=2, layers=3, nodes=2, order=order)
    torch.manual_seed(0)
    original = OriginalSteps(config, CPU)
    ours = SearchStep(config, 10, (3, 8, 8), CPU)
    ours.net.load_plain(original.net.state_dict())
    train, valid = batch(1), batch(2)
    (original.first_order if order == 1 else original.second_order)(train, valid)
    ours.step(train, valid)
    for kind, alphas in original.alphas.items():
        torch.testing.assert_close(ours.alphas[kind], alphas, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(
        ours.net.to_plain(), dict(original.net.state_dict()), rtol=1e-6, atol=1e-9
    )
