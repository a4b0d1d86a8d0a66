"""Five hundred steps of a recurrent search and of a retraining hold no more than a hundred did."""

from typing import Any

import pytest
from step_tools import live_tensors

from darts_lib.data.text import inputs_and_targets
from darts_lib.recurrent.retrain import RecurrentRetrainConfig, RecurrentRetraining
from darts_lib.recurrent.search import RecurrentSearch, RecurrentSearchConfig

TINY: dict[str, Any] = {"scale": "laptop", "width": 2, "batch_size": 2, "bptt": 2}


@pytest.mark.deep
@pytest.mark.parametrize("kind", ["a search of second order", "a retraining that averages"])
def test_nothing_grows_over_five_hundred_steps(kind: str) -> None:
    run: Any
    if kind == "a retraining that averages":
        run = RecurrentRetraining(RecurrentRetrainConfig.create(**TINY))
        run.averaging, texts, masks, hidden = True, [run.train], [run.masks], [run.hidden]
    else:
        run = RecurrentSearch(RecurrentSearchConfig.create(**TINY, nodes=1, order=2))
        texts, hidden = [run.train, run.valid], [run.train_hidden, run.valid_hidden]
        masks = [run.train_masks, run.valid_masks]
    sizes = []
    for number in range(1, 501):
        [each.draw() for each in masks]
        run.step(*(inputs_and_targets(text, (2 * number, 2)) for text in texts))
        assert all(state.grad_fn is None and not state.requires_grad for state in hidden)
        if number in (100, 500):
            sizes.append(live_tensors())
    assert sizes[0] == sizes[1], "(tensors, bytes) after 100 and after 500 steps"
    assert all(bool(state.any()) for state in hidden), "the hidden state must have gone on"
