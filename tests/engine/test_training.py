"""Figures of a batch, the cosine's published values, and what stops or warns a run."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from darts_lib.data.images import ImageSet, augmented_batch, clean_batch, load_images
from darts_lib.engine.optimisers import (
    chance_warning,
    cosine,
    figures,
    follow,
    laid_out_like,
    restore,
)
from darts_lib.engine.refusals import SettingsError


@pytest.mark.parametrize(
    ("epoch", "epochs", "last", "rate"),
    [
        # The rates that PyTorch's CosineAnnealingLR gives the original code (25e-3 at the start).
        (0, 50, 0.001, 0.025),
        (1, 50, 0.001, 0.02497632074113926),
        (25, 50, 0.001, 0.013),
        (49, 50, 0.001, 0.0010236792588607412),
        (0, 600, 0.0, 0.025),
        (599, 600, 0.0, 1.7134690716569257e-07),
    ],
)
def test_the_cosine_has_the_published_rates(
    epoch: int, epochs: int, last: float, rate: float
) -> None:
    assert cosine(epoch, epochs, 0.025, last) == pytest.approx(rate, rel=1e-9)


def test_figures_are_sums_over_a_batch() -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0], [0.0, math.log(3.0)]])
    loss, correct, count = figures(logits, torch.tensor([0, 0, 0])).tolist()
    assert loss == pytest.approx(math.log(2) + math.log(4 / 3) + math.log(4))
    assert (correct, count) == (2, 3)


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return load_images("digits", Path(), "train", max_images=6)


def test_a_clean_batch_is_the_pictures_themselves_normalised(digits: ImageSet) -> None:
    images, labels = clean_batch(digits, torch.tensor([4, 1]))
    assert labels.tolist() == digits.labels[[4, 1]].tolist()
    pixels = images * digits.std[0] + digits.mean[0]
    torch.testing.assert_close(pixels, digits.images[[4, 1]].float() / 255)


def test_an_augmented_batch_is_drawn_from_its_generator_alone(digits: ImageSet) -> None:
    def draw(seed: int) -> torch.Tensor:
        torch.rand(seed)  # whatever else was drawn must not matter
        generator = torch.Generator().manual_seed(seed)
        return augmented_batch(digits, torch.arange(6), 2, generator)[0]

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


@pytest.mark.parametrize(("lowest", "warned"), [(2.302, True), (2.27, True), (2.2, False)])
def test_a_loss_at_chance_is_told(lowest: float, warned: bool) -> None:
    warnings = chance_warning([{"train_loss": 2.4}, {"train_loss": lowest}], classes=10)
    assert len(warnings) == warned
    assert all("ln(10) = 2.303" in warning for warning in warnings)


def test_a_loaded_optimiser_follows_the_rate_again() -> None:
    weight, rate = torch.ones(1, requires_grad=True), torch.tensor(0.5)
    optimiser = torch.optim.SGD([weight], rate, fused=True)
    stored = optimiser.state_dict()
    stored["param_groups"][0]["lr"] = torch.tensor(0.25)
    optimiser.load_state_dict(stored)
    follow(optimiser, rate)
    assert float(rate) == 0.25
    rate.fill_(0.125)
    weight.grad = torch.ones(1)
    optimiser.step()
    assert weight.tolist() == [1 - 0.125]


def test_a_gradient_takes_the_layout_that_fused_sgd_reads() -> None:
    torch.manual_seed(0)
    gradient = torch.randn(4, 3, 2, 2)
    start = torch.randn(4, 3, 2, 2)
    ends = []
    for fused in (True, False):
        weight = start.clone(memory_format=torch.channels_last).requires_grad_()
        weight.grad = laid_out_like(gradient, weight)
        assert torch.equal(weight.grad, gradient)
        assert weight.grad.stride() == weight.stride()
        torch.optim.SGD([weight], 0.1, 0.9, fused=fused).step()
        ends.append(weight.detach())
    torch.testing.assert_close(*ends)
    same = torch.randn(2, 2)
    assert laid_out_like(same, torch.zeros(2, 2)) is same


def test_strides_of_dimensions_of_one_do_not_count_for_fused_sgd() -> None:
    """As of a pointwise convolution's weight and gradient: two in each step would be copied."""
    gradient = torch.randn(6, 3).as_strided((6, 3, 1, 1), (3, 1, 1, 1))
    start = torch.randn(6, 3, 1, 1).as_strided((6, 3, 1, 1), (3, 1, 3, 3))
    ends = []
    for fused in (True, False):
        weight = start.clone().requires_grad_()
        assert weight.stride() == start.stride() != gradient.stride()
        weight.grad = laid_out_like(gradient, weight)
        assert weight.grad is gradient
        torch.optim.SGD([weight], 0.1, 0.9, fused=fused).step()
        ends.append(weight.detach())
    torch.testing.assert_close(*ends)


class Net:
    """Stands for a run whose network takes the weights of one shape only."""

    def __init__(self) -> None:
        self.net = torch.nn.Linear(2, 1)

    def restore(self, state: Mapping[str, Any]) -> None:
        self.net.load_state_dict(state["net"])


def test_a_fitting_state_is_restored() -> None:
    run, other = Net(), Net()
    restore(run, {"net": other.net.state_dict()}, Path("folder"))
    assert torch.equal(run.net.weight, other.net.weight)


@pytest.mark.parametrize(
    "state",
    [{}, {"net": {}}, {"net": torch.nn.Linear(3, 1).state_dict()}],
    ids=["empty", "no weights", "shape"],
)
def test_a_state_of_another_network_is_refused_in_one_line(state: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="the checkpoint in folder is of a network") as caught:
        restore(Net(), state, Path("folder"))
    assert "\n" not in str(caught.value)
