"""A search of recurrent cells: its settings, its step, its epoch, its figures."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from darts_lib.cost.advice import after_search
from darts_lib.engine.refusals import SettingsError
from darts_lib.recurrent.genotype import RecurrentGenotype, derive
from darts_lib.recurrent.network import LanguageModel, Masks
from darts_lib.recurrent.relaxation import SearchCell, initial_alphas
from darts_lib.recurrent.search import (
    RecurrentSearch,
    RecurrentSearchConfig,
    Words,
    activation_terms,
    evaluate_columns,
    load_search,
    perplexity,
    read_search,
    search,
)
from darts_lib.relaxation import mix

TINY = {"scale": "laptop", "width": 6, "nodes": 2, "batch_size": 8, "bptt": 5}
TINY |= {"max_steps": 3, "epochs": 3}


def config(path: Path | str = "", **given: object) -> RecurrentSearchConfig:
    return RecurrentSearchConfig.create(**{**TINY, "run_dir": str(path), **given})


def started(**given: object) -> tuple[RecurrentSearch, Words, Words]:
    run = RecurrentSearch(config(**given))
    train, valid = next(run.batches(torch.Generator().manual_seed(0)))
    return run, train, valid


# Settings ----------------------------------------------------------------------------------------


def test_the_presets_are_the_papers_and_the_laptops() -> None:
    paper = RecurrentSearchConfig.create(scale="paper")
    assert (paper.dataset, paper.width, paper.batch_size, paper.bptt) == ("penn", 300, 256, 35)
    assert (paper.epochs, paper.order, paper.nodes) == (50, 2, 8)
    assert (paper.learning_rate, paper.weight_decay, paper.clip) == (20.0, 5e-7, 0.25)
    assert (paper.alpha_learning_rate, paper.alpha_weight_decay) == (3e-3, 1e-3)
    assert (paper.tar, paper.ar) == (1e-3, 0.0)
    assert vars(paper.dropout) == {
        "words": 0.0, "embedding": 0.2, "cell_input": 0.75, "hidden": 0.25, "output": 0.75,
    }  # fmt: skip
    assert RecurrentSearchConfig.create(scale="laptop").dataset == "topics"
    assert config(batch_size=0).batch_size == 32, "0 in a parameter cell is the scale's own"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"dataset": "pen"}, "unknown text 'pen'; did you mean"),
        ({"dataset": "cifar10"}, "unknown text 'cifar10'"),
        ({"max_images": 5}, "max_images is for images; for text use max_tokens"),
        ({"compile": "on"}, "compile='on' is for images"),
        ({"amp": "on"}, "amp='on' is for images"),
        ({"graph": "on", "device": "cpu"}, "graph='on' needs CUDA"),
        ({"route": "second"}, "unknown route 'second'"),
        ({"batch_size": 1}, "batch_size=1"),
        ({"dropout_hidden": 1.0}, "dropout_hidden=1.0"),
        ({"channels": 4}, "unknown setting 'channels'"),
    ],
)
def test_wrong_settings_are_named(given: dict[str, object], words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        config(**given)
    assert words in str(caught.value)


def test_a_batch_that_the_text_cannot_fill_is_refused() -> None:
    with pytest.raises(SettingsError, match="6,000 tokens is too short for batch_size=4000"):
        RecurrentSearch(config(batch_size=4000))


# One step ----------------------------------------------------------------------------------------


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
    for name, value in twin.named_parameters():
        torch.testing.assert_close(run.weights[name], value, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(run.train_hidden, out.hidden.detach(), rtol=1e-4, atol=1e-5)
    assert bool(run.valid_hidden.any())
    assert not run.train_hidden.requires_grad, "the next segment's first, without its graph"


def test_the_alphas_loss_has_no_activation_terms_and_the_inner_step_is_clipped() -> None:
    with_terms, train, _ = started(ar=9.0, tar=9.0)
    without, _, _ = started(ar=0.0, tar=0.0)
    losses = [
        float(run.loss(train, run.train_hidden, run.train_masks)(run.weights, run.alphas).detach())
        for run in (with_terms, without)
    ]
    assert losses[0] == losses[1]
    assert with_terms.inner_step(1.0).clip == 0.25
    assert with_terms.inner_step(1.0).momentum == 0.0


def test_every_pass_over_a_segment_sees_the_same_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, bytes]] = []
    forward = LanguageModel.forward

    def watched(
        net: LanguageModel, tokens: Tensor, hidden: Tensor, masks: Masks, *rest: Any
    ) -> Any:
        assert masks.hidden is not None
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
    assert float(activation_terms(out, 0.0, 1.0).detach()) == 0.0


# The epoch ---------------------------------------------------------------------------------------


def test_segments_follow_one_another_with_rates_masks_and_a_text_read_anew_has_no_past(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = RecurrentSearch(config(max_steps=0, bptt=35))
    rates: list[float] = []
    drawn: dict[str, list[Tensor]] = {"train": [], "valid": []}
    read: list[Tensor] = []
    anew: list[bool] = []

    def step(train: Words, valid: Words) -> Tensor:
        assert train[0].shape == valid[0].shape
        rates.append(float(run.rate) / len(train[0]))
        read.append(valid[0])
        for name, masks in (("train", run.train_masks), ("valid", run.valid_masks)):
            assert masks.hidden is not None
            drawn[name].append(masks.hidden.clone())
        anew.append(not bool(run.valid_hidden.any()))
        run.valid_hidden.fill_(1)
        return torch.ones(2)

    monkeypatch.setattr(run, "step", step)
    monkeypatch.setattr(run, "recorded", step)
    run.epoch(0)
    assert rates == pytest.approx([20 / 35] * len(rates))
    assert len(rates) >= 6000 // 8 // 35
    assert anew == [torch.equal(words, run.valid[: len(words)]) for words in read]
    assert sum(anew) > 1, "the text must end, and begin again"
    joined = torch.cat(read[: anew.index(True, 1)])
    assert torch.equal(joined, run.valid[: len(joined)]), "one segment follows the other"
    for masks in drawn.values():
        assert not any(torch.equal(one, other) for one, other in itertools.pairwise(masks))
    assert not any(map(torch.equal, *drawn.values())), "both texts have masks of their own"


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
        evaluate_columns(run.net, run.valid[:, :1], 5, weights)


def test_a_search_leaves_its_alphas_cells_and_figures_and_can_be_rebuilt(tmp_path: Path) -> None:
    result = search(config(tmp_path / "run"))
    for row in result.history:
        assert row["valid_perplexity"] == pytest.approx(math.exp(row["valid_loss"]))
        assert row["alpha_change"] > 0
    alphas = result.alphas["recurrent"]
    assert tuple(alphas.shape) == (4, 3, 5)
    for row, after in zip(result.history, alphas[1:], strict=True):
        assert RecurrentGenotype.from_dict(row["genotype"]) == derive({"recurrent": after})
    assert torch.equal(alphas[0], initial_alphas(2)["recurrent"].detach())
    assert result.figures["parameters"] == 2001 * 6 + 2001 + 12 * 12 + 2 * 6 * 12
    assert result.figures["route"] == "finite_difference"
    run = load_search(tmp_path / "run")
    assert torch.equal(run.alphas["recurrent"].detach(), alphas[-1])
    assert read_search(tmp_path / "run").genotype == result.genotype
    with pytest.raises(SettingsError, match=r"holds no checkpoint\.pt; run chapter 06's search"):
        load_search(tmp_path)


def test_what_looks_wrong_is_said() -> None:
    row = {"train_loss": math.log(50), "alpha_change": 0.0}
    said = after_search([row], 50, "text")
    assert len(said) == 2
    assert "that of guessing, ln(50) = 3.912" in said[0]
    assert after_search([{"train_loss": 1.0, "alpha_change": 0.1}], 50, "text") == []
    assert perplexity(math.log(50)) == pytest.approx(50)
    assert perplexity(1e6) == math.inf


@pytest.mark.deep
@pytest.mark.real_data("penn")
def test_on_penn_treebank_the_training_loss_of_a_search_falls(
    real_data_root: Path, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"dataset": "penn", "data_root": str(real_data_root)}
    given |= {"max_tokens": 60_000, "width": 24, "nodes": 4, "batch_size": 32, "bptt": 20}
    result = search(config(tmp_path / "penn", **given, max_steps=15))
    losses = [row["train_loss"] for row in result.history]
    assert losses[0] > losses[1] > losses[2]
    assert result.history[-1]["alpha_change"] > 0
