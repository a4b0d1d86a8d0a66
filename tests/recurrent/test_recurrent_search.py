"""A search of recurrent cells: its settings, its step, its epoch, its figures."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from step_tools import live_tensors
from torch import Tensor, nn

from darts_lib.data.text import Corpus, inputs_and_targets
from darts_lib.engine.refusals import SettingsError
from darts_lib.recurrent import search as searching
from darts_lib.recurrent.genotype import derive
from darts_lib.recurrent.network import LanguageModel
from darts_lib.recurrent.plain import RecurrentOriginalSteps
from darts_lib.recurrent.relaxation import SearchCell, initial_alphas
from darts_lib.recurrent.retrain import RecurrentRetrainConfig, RecurrentRetraining
from darts_lib.recurrent.search import RecurrentSearch, RecurrentSearchConfig, Words, search
from darts_lib.relaxation import mix

TINY = {"scale": "laptop", "width": 6, "nodes": 2, "batch_size": 8, "bptt": 5}
TINY |= {"max_steps": 3, "epochs": 3}


def config(path: Path | str = "", **given: object) -> RecurrentSearchConfig:
    return RecurrentSearchConfig.create(**{**TINY, "run_dir": str(path), **given})


def started(**given: object) -> tuple[RecurrentSearch, Words, Words]:
    run = RecurrentSearch(config(**given))
    train, valid = next(run.batches(torch.Generator().manual_seed(0)))
    return run, train, valid


def test_the_weight_step_against_plain_sgd() -> None:
    """Loss with both activation terms, clip by the norm, the rate of the segment's length."""
    run, train, valid = started(ar=2.0, tar=3.0, weight_decay=0.01, clip=0.1, order=1)
    run.alpha_optimiser.param_groups[0]["lr"] = 0.0
    run.rate.fill_(1.5)
    twin = LanguageModel(SearchCell(6, 2), run.net.vocabulary)
    twin.load_state_dict(run.net.state_dict())
    weights = mix({"recurrent": run.alphas["recurrent"].detach()})
    out = twin(train[0], twin.first_hidden(8), run.train_masks, weights)
    loss = nn.functional.cross_entropy(out.logits.flatten(0, 1), train[1].flatten())
    loss = loss + 2.0 * out.dropped.pow(2).mean()
    loss = loss + 3.0 * (out.outputs[1:] - out.outputs[:-1]).pow(2).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(twin.parameters(), 0.1)
    torch.optim.SGD(twin.parameters(), 1.5, weight_decay=0.01).step()
    run.step(train, valid)
    moved = dict(twin.named_parameters())
    torch.testing.assert_close(dict(run.weights), moved, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(run.train_hidden, out.hidden.detach(), rtol=1e-4, atol=1e-5)
    assert bool(run.valid_hidden.any())
    assert not run.train_hidden.requires_grad, "the next segment's first, without its graph"


def test_the_alphas_loss_has_no_activation_terms_and_the_inner_step_is_clipped() -> None:
    losses = []
    for terms in (9.0, 0.0):
        run, train, _ = started(ar=terms, tar=terms)
        loss = run.loss(train, run.train_hidden, run.train_masks)
        losses.append(float(loss(run.weights, run.alphas).detach()))
    assert losses[0] == losses[1]
    assert (run.inner_step(1.0).clip, run.inner_step(1.0).momentum) == (0.25, 0.0)


def test_every_pass_over_a_segment_sees_the_same_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, bytes]] = []
    forward = LanguageModel.forward

    def watched(net: LanguageModel, tokens: Tensor, hidden: Tensor, masks: Any, *rest: Any) -> Any:
        seen.append((int(tokens.sum()), masks.hidden.numpy().tobytes()))
        return forward(net, tokens, hidden, masks, *rest)

    monkeypatch.setattr(LanguageModel, "forward", watched)
    run, train, valid = started()
    run.step(train, valid)
    assert len(seen) == 5, "two on the training text for the gradient by w, three more"
    assert len({masks for _, masks in seen}) == len({tokens for tokens, _ in seen}) == 2


def test_one_word_has_no_change_and_no_term() -> None:
    run, train, _ = started()
    out = run.net(train[0][:1], run.train_hidden, run.train_masks, mix(run.alphas))
    assert float(searching.activation_terms(out, 0.0, 1.0).detach()) == 0.0


def test_segments_follow_one_another_with_rates_masks_and_a_text_read_anew_has_no_past(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = RecurrentSearch(config(max_steps=0, bptt=35))
    rates: list[float] = []
    drawn: list[list[Tensor]] = [[], []]
    read: list[Tensor] = []
    anew: list[bool] = []

    def step(train: Words, valid: Words) -> Tensor:
        assert train[0].shape == valid[0].shape
        rates.append(float(run.rate) / len(train[0]))
        read.append(valid[0])
        for before, masks in zip(drawn, (run.train_masks, run.valid_masks), strict=True):
            before.append(masks.hidden.clone())  # type: ignore[union-attr]
        anew.append(not bool(run.valid_hidden.any()))
        run.valid_hidden.fill_(1)
        return torch.ones(2)

    for name in ("step", "recorded"):
        monkeypatch.setattr(run, name, step)
    run.epoch(0)
    assert rates == pytest.approx([20 / 35] * len(rates))
    assert len(rates) >= 6000 // 8 // 35
    assert anew == [torch.equal(words, run.valid[: len(words)]) for words in read]
    assert sum(anew) > 1, "the text must end, and begin again"
    joined = torch.cat(read[: anew.index(True, 1)])
    assert torch.equal(joined, run.valid[: len(joined)]), "one segment follows the other"
    for masks in drawn:
        assert not any(torch.equal(one, other) for one, other in itertools.pairwise(masks))
    assert not any(map(torch.equal, *drawn)), "both texts have masks of their own"


def test_the_supernet_is_evaluated_at_the_batch_of_the_search() -> None:
    run = RecurrentSearch(config(max_steps=0))
    assert run.valid.shape[1] == 8
    loss, count = run.evaluate().tolist()
    assert count == run.valid[1:].numel()
    weights = mix(run.alphas)
    out = run.net(run.valid[:-1], run.net.first_hidden(8), weights=weights)
    whole = nn.functional.cross_entropy(out.logits.flatten(0, 1), run.valid[1:].flatten())
    assert loss / count == pytest.approx(float(whole.detach()), rel=1e-5)
    with pytest.raises(ValueError, match="at least 2"):
        searching.evaluate_columns(run.net, run.valid[:, :1], 5, weights)


def test_a_search_leaves_its_alphas_cells_and_figures_and_can_be_rebuilt(tmp_path: Path) -> None:
    result = search(config(tmp_path / "run"))
    alphas = result.alphas["recurrent"]
    assert tuple(alphas.shape) == (4, 3, 5)
    for row, after in zip(result.history, alphas[1:], strict=True):
        assert row["valid_perplexity"] == pytest.approx(math.exp(row["valid_loss"]))
        assert row["alpha_change"] > 0
        assert row["genotype"] == derive({"recurrent": after}).to_dict()
    assert torch.equal(alphas[0], initial_alphas(2)["recurrent"].detach())
    assert result.figures["parameters"] == 2001 * 6 + 2001 + 12 * 12 + 2 * 6 * 12
    assert result.figures["route"] == "finite_difference"
    run = searching.load_search(tmp_path / "run")
    assert torch.equal(run.alphas["recurrent"].detach(), alphas[-1])
    assert searching.read_search(tmp_path / "run").genotype == result.genotype
    with pytest.raises(SettingsError, match=r"holds no checkpoint\.pt; run chapter 06's search"):
        searching.load_search(tmp_path)


def test_perplexity_by_hand() -> None:
    assert (searching.perplexity(math.log(50)), searching.perplexity(1e6)) == (
        pytest.approx(50),
        math.inf,
    )


@pytest.mark.parametrize("order", [1, 2])
def test_a_step_as_the_original_takes_it_ends_where_ours_does(order: int) -> None:
    torch.set_default_dtype(torch.float64)
    # The original's inner step is clipped too; the one here is not, so the clip must not act.
    given = {"scale": "laptop", "width": 5, "nodes": 3, "batch_size": 3, "order": order}
    config = RecurrentSearchConfig.create(**given, clip=1e9, learning_rate=0.5, ar=2.0, tar=3.0)
    torch.manual_seed(0)
    original = RecurrentOriginalSteps(config, 9, torch.device("cpu"))
    ours = RecurrentSearch(config, data=Corpus(*[torch.arange(9)] * 3, tuple("abcdefghi")))
    with torch.no_grad():
        for weight in original.net.parameters():
            weight.copy_(0.5 * torch.randn_like(weight))
    ours.net.load_state_dict(original.net.state_dict())
    for masks in (original.masks, ours.train_masks, ours.valid_masks):
        masks.draw(torch.Generator().manual_seed(0))
    before = ours.alphas["recurrent"].detach().clone()
    train, valid = torch.randint(9, (2, 2, 4, 3), generator=torch.Generator().manual_seed(1))
    (original.first_order if order == 1 else original.second_order)(tuple(train), tuple(valid))
    ours.step(tuple(train), tuple(valid))
    alphas = original.alphas["recurrent"]
    torch.testing.assert_close(ours.alphas["recurrent"], alphas, rtol=1e-6, atol=1e-9)
    assert not torch.allclose(alphas, before)
    states = ours.net.state_dict(), original.net.state_dict()
    torch.testing.assert_close(*states, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(ours.train_hidden, original.hidden, rtol=1e-6, atol=1e-9)


@pytest.mark.deep
@pytest.mark.parametrize("kind", ["a search of second order", "a retraining that averages"])
def test_nothing_grows_over_five_hundred_steps(kind: str) -> None:
    run: Any
    tiny: dict[str, Any] = {"scale": "laptop", "width": 2, "batch_size": 2, "bptt": 2}
    if kind == "a retraining that averages":
        run = RecurrentRetraining(RecurrentRetrainConfig.create(**tiny))
        run.averaging, texts, masks, hidden = True, [run.train], [run.masks], [run.hidden]
    else:
        run = RecurrentSearch(RecurrentSearchConfig.create(**tiny, nodes=1, order=2))
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


@pytest.mark.deep
@pytest.mark.real_data("penn")
def test_on_penn_treebank_the_loss_of_a_search_falls(real_data_root: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"dataset": "penn", "data_root": str(real_data_root), "max_steps": 15}
    given |= {"max_tokens": 60_000, "width": 24, "nodes": 4, "batch_size": 32, "bptt": 20}
    result = search(config(tmp_path / "penn", **given))
    losses = [row["train_loss"] for row in result.history]
    assert losses[0] > losses[1] > losses[2]
    assert result.history[-1]["alpha_change"] > 0
