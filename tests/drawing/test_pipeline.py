"""The picture of the whole method."""

import pytest

from darts_lib.drawing import draw_pipeline
from darts_lib.drawing.pipeline import STEPS


def test_one_panel_is_where_the_reader_is() -> None:
    for here in range(1, len(STEPS) + 1):
        axes = draw_pipeline(here).axes
        assert [ax.get_xlabel() == "you are here" for ax in axes].index(True) == here - 1
        assert [ax.get_title().split(" · ")[1] for ax in axes] == list(STEPS)


def test_a_chapter_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="name a chapter from 1 to 7"):
        draw_pipeline(8)
