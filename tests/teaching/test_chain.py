"""The network in which skip connections win, and the smooth problem with one thing changed."""

import pytest
import torch

from darts_lib.bilevel import architecture_gradient
from darts_lib.data.images import halves, load_images
from darts_lib.engine.settings import RunConfig
from darts_lib.teaching import Chain, relative_error, smooth_problem


def test_a_chain_at_its_ends_is_one_candidate_alone() -> None:
    torch.manual_seed(0)
    chain, images = Chain(), torch.randn(4, 1, 8, 8)
    skips = chain(images, {"edge": torch.tensor([[1.0, 0.0]])})
    before = [w.detach().clone() for w in chain.parameters()]
    with torch.no_grad():
        for _, *layers in chain.stages:
            assert len(layers) == 5
            for layer in layers:
                layer[1][0].weight.normal_()
    assert torch.equal(chain(images, {"edge": torch.tensor([[1.0, 0.0]])}), skips)
    assert not torch.equal(chain(images, {"edge": torch.tensor([[0.0, 1.0]])}), skips)
    assert len(before) == 1 + 15 + 2 + 2


def test_its_accuracy_is_a_share_of_the_images() -> None:
    _, valid = halves(load_images("digits", RunConfig.create(scale="laptop").data_folder, "train"))
    assert 0 < Chain().accuracy(valid, 0.5) < 0.4


@pytest.mark.parametrize("change", [{"digits": True}, {"learning_rate": 0.025}, {"kinks": True}])
def test_only_kinks_bend_the_square_law(change: dict[str, float]) -> None:
    given = smooth_problem(**change).arguments
    exact = architecture_gradient(*given, route="exact").implicit
    errors = [
        relative_error(architecture_gradient(*given, radius=radius).implicit, exact)
        for radius in (1e-2, 1e-3)
    ]
    assert (80 < errors[0] / errors[1] < 120) is ("kinks" not in change)
    assert (errors[0] > 1) is ("kinks" in change)
