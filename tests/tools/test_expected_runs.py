"""What full-scale runs are expected to need: the steps are the protocol's, memory is by rank."""

from dataclasses import replace

import torch

from darts_lib.search_settings import SearchConfig
from darts_lib.tools.expected_runs import Data, Run, full_scale, rows

CONFIG = SearchConfig.create(
    scale="laptop", channels=2, layers=3, nodes=2, batch_size=16, epochs=2, device="cpu"
)
SMALL = Run("small", "none", CONFIG, Data(100, 10, (3, 8, 8)))


def test_steps_are_those_of_the_published_logs() -> None:
    steps = {run.name: run.steps for run in full_scale()}
    assert steps["search, CIFAR-10, second order"] == 50 * 391
    assert steps["retraining, CIFAR-10"] == 600 * 521
    assert steps["retraining, ImageNet"] == 250 * 10_010


def test_a_search_step_needs_less_on_each_of_eight_ranks() -> None:
    one, eight = (SMALL.cost(ranks).memory(torch.device("cuda")) for ranks in (1, 8))
    assert 0 < eight < one / 2


def test_a_row_says_what_is_expected() -> None:
    (row,) = rows([SMALL])
    assert row["steps"] == "8"  # two epochs of 50 images in batches of 16
    assert row["GPU memory of a step"].endswith("GiB")
    assert row["time on this CPU"] != "not timed"
    (untimed,) = rows([replace(SMALL, timed=False)])
    assert untimed["time on this CPU"] == "not timed"
