"""Two independent routes: the original's recurrent steps and ours end in one place."""

import pytest
import torch

from darts_lib.data.text import Corpus
from darts_lib.recurrent.plain import RecurrentOriginalSteps
from darts_lib.recurrent.search import RecurrentSearch, RecurrentSearchConfig


@pytest.mark.parametrize("order", [1, 2])
def test_a_step_as_the_original_takes_it_ends_where_ours_does(order: int) -> None:
    torch.set_default_dtype(torch.float64)
    # The original's inner step is clipped too; the one here is not, so the clip must not act.
    given = {"scale": "laptop", "width": 5, "nodes": 3, "batch_size": 3, "order": order}
    config = RecurrentSearchConfig.create(**given, clip=1e9, learning_rate=0.5, ar=2.0, tar=3.0)
    torch.manual_seed(0)
    original = RecurrentOriginalSteps(config, 9, torch.device("cpu"))
    ours = RecurrentSearch(config, data=Corpus(*[torch.arange(9)] * 3, tuple("abcdefghi")))
    with torch.no_grad():
        for weight in original.net.parameters():
            weight.copy_(0.5 * torch.randn_like(weight))
    ours.net.load_state_dict(original.net.state_dict())
    for masks in (original.masks, ours.train_masks, ours.valid_masks):
        masks.draw(torch.Generator().manual_seed(0))
    before = ours.alphas["recurrent"].detach().clone()
    train, valid = torch.randint(9, (2, 2, 4, 3), generator=torch.Generator().manual_seed(1))
    (original.first_order if order == 1 else original.second_order)(tuple(train), tuple(valid))
    ours.step(tuple(train), tuple(valid))
    alphas = original.alphas["recurrent"]
    torch.testing.assert_close(ours.alphas["recurrent"], alphas, rtol=1e-6, atol=1e-9)
    assert not torch.allclose(alphas, before)
    states = ours.net.state_dict(), original.net.state_dict()
    torch.testing.assert_close(*states, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(ours.train_hidden, original.hidden, rtol=1e-6, atol=1e-9)
