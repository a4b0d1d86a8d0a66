"""What a run warns of, from plain figures."""

import math
from dataclasses import replace

import pytest

from darts_lib.cost.advice import after_search, large_pictures, poor_cell, short_reach
from darts_lib.genotype import PUBLISHED

SOUND = {"train_loss": 0.5, "skips": 1, "alpha_change": 0.1}


@pytest.mark.parametrize(("rows", "words"), [
    ([{}], []),
    ([{}, {"skips": 3}], ["3 of the normal cell's edges are skip connections"]),
    ([{"skips": 3}, {}], []),  # only the last cell counts
    ([{"alpha_change": 0.0}] * 2, ["alphas never moved"]),
    ([{"alpha_change": 0.0}, {}], []),
    ([{"train_loss": 2.4}, {"train_loss": 2.27}], ["stayed at chance, ln(10) = 2.303"]),
    ([{"train_loss": 2.4}, {"train_loss": 2.2}], []),
    ([{"train_loss": 2.3}, {}], []),
    ([{"train_loss": 2.3, "alpha_change": 0.0}], ["stayed at chance", "alphas never moved"]),
])  # fmt: skip
def test_a_history_that_looks_wrong_is_told(rows: list[dict[str, float]], words: list[str]) -> None:
    said = after_search([SOUND | row for row in rows], classes=10)
    assert len(said) == len(words)
    assert all(word in line for word, line in zip(words, said, strict=True)), said


def test_a_recurrent_history_that_looks_wrong_is_told() -> None:
    row = {"train_loss": math.log(50), "alpha_change": 0.0}  # and no skips
    loss, alphas = after_search([row], 50, "text")
    assert "that of guessing, ln(50) = 3.912" in loss
    assert "alphas never moved" in alphas
    assert after_search([{"train_loss": 1.0, "alpha_change": 0.1}], 50, "text") == []


def test_a_reduction_cell_of_pools_is_no_reason_to_warn() -> None:
    """The published reduction cells have pools and skips alone; a dilated edge is enough."""
    free = (("max_pool_3x3", 0), ("skip_connect", 1)) * 4
    for normal, said in {(*free[:-1], ("dil_conv_5x5", 3)): 0, free: 1}.items():
        assert len(poor_cell(replace(PUBLISHED["DARTS_V2"], normal=normal))) == said
    assert all(poor_cell(PUBLISHED[name]) == [] for name in ("DARTS_V1", "DARTS_V2"))


def test_too_few_steps_for_the_alphas_are_told() -> None:
    assert "9 steps of about 0.0003 move each alpha by 0.0027 at most" in short_reach(9, 3e-4)[0]
    assert short_reach(3 * 112, 3e-4) == [], "3 x 112 steps of 0.0003 are a tenth"
    assert short_reach(9, 0.05) == []


def test_large_pictures_in_the_form_for_cifar_are_told() -> None:
    assert large_pictures(96) == []
    assert "image_size=224" in large_pictures(224)[0]
    assert "costs 12 times what it does at 64" in large_pictures(224)[0]
