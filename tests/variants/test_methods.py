"""Two trial methods, each one file and one row of the table: searched, resumed, derived."""

from pathlib import Path
from typing import Any

import gumbel_trial
import partial_channels_trial
import pytest
import torch
from fuzz_tools import Patch
from kind_tools import SEARCH, end_of, stop_after

from darts_lib.bilevel import architecture_gradient
from darts_lib.data.images import clean_batch
from darts_lib.engine.refusals import SettingsError
from darts_lib.search import Search, SearchConfig, search
from darts_lib.search_space import KINDS
from darts_lib.variants import METHODS

TRIALS = {"gumbel": gumbel_trial.METHOD, "partial": partial_channels_trial.METHOD}


@pytest.fixture(autouse=True)
def _trial_methods(monkeypatch: Patch) -> None:
    for name, method in TRIALS.items():
        monkeypatch.setitem(METHODS, name, method)


def settings(method: str, supernet: str, **given: Any) -> SearchConfig:
    small = {"channels": 8, "nodes": 2, "epochs": 2, "max_steps": 1, **given}
    return SearchConfig.create(**{**SEARCH, "layers": 8, **small}, method=method, supernet=supernet)


@pytest.mark.parametrize(("method", "supernet"), [
    ("gumbel", "fused"), ("gumbel", "plain"), ("partial", "plain"),
])  # fmt: skip
def test_a_method_is_searched_goes_on_to_the_same_bits_and_derives(
    method: str, supernet: str, tmp_path: Path
) -> None:
    whole = search(settings(method, supernet, run_dir=str(tmp_path / "whole")))
    half = settings(method, supernet, run_dir=str(tmp_path / "half"))
    with pytest.raises(KeyboardInterrupt):
        search(half, stop_after(1))
    assert search(half).genotype == whole.genotype
    assert end_of(tmp_path / "half") == end_of(whole.path)
    assert len(whole.genotype.normal) == 2 * 2


def test_a_method_says_on_which_supernet_it_runs() -> None:
    with pytest.raises(SettingsError, match=r"'fused' is not for method='partial'; use 'plain'"):
        settings("partial", "fused")


def test_a_draw_is_one_for_all_passes_of_a_step_so_the_routes_agree() -> None:
    run = Search(settings("gumbel", "plain"))
    train, valid = (clean_batch(half, torch.arange(8)) for half in (run.train, run.valid))
    draw, other = (
        tuple(gumbel_trial.gumbel(run.alphas, torch.Generator().manual_seed(seed)).values())
        for seed in (0, 1)
    )

    def gradient(route: str, of_valid: tuple[torch.Tensor, ...]) -> torch.Tensor:
        losses, inner = (run.loss(train, draw), run.loss(valid, of_valid)), run.inner_step(0.025)
        total = architecture_gradient(*losses, run.weights, run.alphas, inner, route).total
        return torch.cat([total[kind].flatten() for kind in KINDS])

    exact = gradient("exact", draw)
    assert torch.allclose(exact, gradient("unrolled", draw), rtol=1e-3, atol=1e-6)
    assert not torch.allclose(exact, gradient("exact", other), rtol=1e-1, atol=1e-4)
