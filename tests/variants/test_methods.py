"""Two trial methods, each one file and one row of the table: searched, resumed, derived."""

from pathlib import Path
from typing import Any

import gumbel_trial
import partial_channels_trial
import pytest
import torch
from kind_tools import SEARCH, end_of, stop_after

from darts_lib.bilevel import architecture_gradient
from darts_lib.cost.complexity import count_parameters
from darts_lib.data.images import clean_batch
from darts_lib.engine.refusals import SettingsError
from darts_lib.relaxation import MixedOp
from darts_lib.search import Search, SearchConfig, search
from darts_lib.search_space import KINDS, PRIMITIVES
from darts_lib.variants import METHODS

TRIALS = {"gumbel": gumbel_trial.METHOD, "partial": partial_channels_trial.METHOD}
RUNS = [("gumbel", "fused"), ("gumbel", "plain"), ("partial", "plain")]


@pytest.fixture(autouse=True)
def _trial_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, method in TRIALS.items():
        monkeypatch.setitem(METHODS, name, method)


def settings(method: str, supernet: str, **given: Any) -> SearchConfig:
    small = {"channels": 8, "nodes": 2, "epochs": 2, "max_steps": 1, **given}
    return SearchConfig.create(**{**SEARCH, "layers": 8, **small}, method=method, supernet=supernet)


@pytest.mark.parametrize(("method", "supernet"), RUNS)
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
    with pytest.raises(SettingsError, match=r"unknown method 'gumble'; did you mean 'gumbel'\?"):
        settings("gumble", "fused")


def test_a_draw_is_one_for_all_passes_of_a_step_so_the_routes_agree() -> None:
    run = Search(settings("gumbel", "plain"))
    train, valid = (clean_batch(half, torch.arange(8)) for half in (run.train, run.valid))
    draw = tuple(gumbel_trial.gumbel(run.alphas, torch.Generator().manual_seed(0)).values())

    def gradient(route: str, *draws: tuple[torch.Tensor, ...]) -> torch.Tensor:
        losses = run.loss(train, draws[0]), run.loss(valid, draws[-1])
        inner = run.inner_step(0.025)
        total = architecture_gradient(*losses, run.weights, run.alphas, inner, route).total
        return torch.cat([total[kind].flatten() for kind in KINDS])

    exact, unrolled = gradient("exact", draw), gradient("unrolled", draw)
    assert torch.allclose(exact, unrolled, rtol=1e-3, atol=1e-6)
    other = tuple(gumbel_trial.gumbel(run.alphas, torch.Generator().manual_seed(1)).values())
    assert not torch.allclose(exact, gradient("exact", draw, other), rtol=1e-1, atol=1e-4)


def test_a_sampled_weight_is_the_formula_and_its_mode_as_often_as_its_softmax() -> None:
    alphas = {"normal": torch.tensor([[0.5, 0.0, 1.0]]).repeat(20_000, 1)}
    draw = gumbel_trial.gumbel(alphas, torch.Generator().manual_seed(0))
    weights = gumbel_trial.mix(alphas, draw)["normal"]
    assert torch.allclose(weights.sum(dim=1), torch.ones(len(weights)))
    shares = weights.argmax(dim=1).bincount() / len(weights)
    assert torch.allclose(shares, torch.softmax(alphas["normal"][0], dim=0), atol=0.01)


@pytest.mark.parametrize("stride", [1, 2])
def test_three_quarters_of_the_channels_pass_beside_the_operations(stride: int) -> None:
    torch.manual_seed(0)
    edge = partial_channels_trial.PartialMixedOp(8, stride, PRIMITIVES)
    x, y = (x := torch.randn(2, 8, 7, 6)), edge(x, torch.full((8,), 1 / 8))
    beside = y.reshape(2, 2, 4, *y.shape[2:])[:, :, 1:]  # unshuffled: channel 4 i + j was in part j
    expected = torch.nn.functional.max_pool2d(x, 2, ceil_mode=True) if stride == 2 else x
    assert torch.equal(beside.transpose(1, 2).flatten(1, 2), expected[:, 2:])
    assert count_parameters(edge) < count_parameters(MixedOp(8, stride, PRIMITIVES)) / 3
