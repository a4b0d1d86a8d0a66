"""Five hundred steps of a recurrent search and of a retraining hold no more than a hundred did."""

import gc
from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

from darts_lib.data.text import inputs_and_targets
from darts_lib.recurrent.retrain_step import RecurrentRetrainConfig, RecurrentRetraining
from darts_lib.recurrent.search_epoch import RecurrentSearch
from darts_lib.recurrent.search_step import RecurrentSearchConfig

TINY: dict[str, Any] = {"scale": "laptop", "width": 2, "batch_size": 2, "bptt": 2}


def a_search() -> tuple[Callable[[], object], list[Tensor]]:
    """Return a second-order step on the next segments, and the hidden states between steps."""
    run = RecurrentSearch(RecurrentSearchConfig.create(**TINY, nodes=1, order=2))
    place = iter(range(0, 10_000, 2))

    def step() -> None:
        row = next(place)
        run.train_masks.draw()
        run.valid_masks.draw()
        run.step(inputs_and_targets(run.train, (row, 2)), inputs_and_targets(run.valid, (row, 2)))

    return step, [run.train_hidden, run.valid_hidden]


def a_retraining() -> tuple[Callable[[], object], list[Tensor]]:
    """Return a step that averages, on the next segment, and the hidden state between steps."""
    run = RecurrentRetraining(RecurrentRetrainConfig.create(**TINY))
    run.averaging, place = True, iter(range(0, 10_000, 2))

    def step() -> None:
        run.masks.draw()
        run.step(inputs_and_targets(run.train, (next(place), 2)))

    return step, [run.hidden]


def live() -> tuple[int, int]:
    """Return how many tensors there are, and their bytes."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)]
    return len(tensors), sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("start", [a_search, a_retraining])
def test_nothing_grows_over_five_hundred_steps(
    start: Callable[[], tuple[Callable[[], object], list[Tensor]]],
) -> None:
    step, hidden = start()
    found = []
    for number in range(1, 501):
        step()
        assert all(state.grad_fn is None and not state.requires_grad for state in hidden)
        if number in (100, 500):
            found.append(live())
    assert found[0] == found[1], "(tensors, bytes) after 100 and after 500 steps"
    assert all(bool(state.any()) for state in hidden), "the hidden state must have gone on"
