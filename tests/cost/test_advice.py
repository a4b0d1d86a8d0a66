"""What a run warns of, from plain figures."""

import pytest

from darts_lib.cost.advice import chance_loss, short_reach


@pytest.mark.parametrize(("lowest", "warned"), [(2.302, True), (2.27, True), (2.2, False)])
def test_a_loss_at_chance_is_told(lowest: float, warned: bool) -> None:
    warnings = chance_loss([{"train_loss": 2.4}, {"train_loss": lowest}], classes=10)
    assert len(warnings) == warned
    assert all("ln(10) = 2.303" in warning for warning in warnings)


def test_too_few_steps_for_the_alphas_are_told() -> None:
    (line,) = short_reach(9, 3e-4)
    assert line.startswith(
        "9 steps of about 0.0003 move each alpha by 0.0027 at most, so the cell found will be noise"
    )
    assert short_reach(3 * 112, 3e-4) == [], "3 x 112 steps of 0.0003 are a tenth"
    assert short_reach(9, 0.05) == []
