"""What a step sums over its batch, the figures of a row, and the batch that nothing augments."""

import math
from pathlib import Path

import pytest
import torch

from darts_lib.data.images import ImageSet, augmented_batch, clean_batch, figures, load_images, sums


def test_figures_are_sums_over_a_batch() -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0], [0.0, math.log(3.0)]])
    total = sums(logits, torch.tensor([0, 0, 0])).tolist()
    assert total == pytest.approx([math.log(2) + math.log(4 / 3) + math.log(4), 2, 3])
    found = figures("valid", total)
    assert found == pytest.approx({"valid_loss": total[0] / 3, "valid_accuracy": 2 / 3})


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
