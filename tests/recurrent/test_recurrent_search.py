"""A search of recurrent cells: its settings, its step, its epoch, its figures."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzz_tools import Patch
from kind_tools import KINDS
from step_tools import live_tensors
from torch import Tensor, nn

from darts_lib.data.text import Corpus
from darts_lib.engine.refusals import SettingsError
from darts_lib.recurrent import search as searching
from darts_lib.recurrent.genotype import derive
from darts_lib.recurrent.network import LanguageModel
from darts_lib.recurrent.plain import RecurrentOriginalSteps
from darts_lib.recurrent.relaxation import initial_alphas
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


def test_every_pass_over_a_segment_sees_the_same_masks(monkeypatch: Patch) -> None:
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


def test_losses_by_hand_and_one_word_has_no_change_and_no_term() -> None:
    run, (tokens, targets), _ = started()
    given = run.train_hidden, run.train_masks, mix(run.alphas)
    out, of_one_word = run.net(tokens, *given), run.net(tokens[:1], *given)
    by_hand = nn.functional.cross_entropy(out.logits.flatten(0, 1), targets.flatten())
    torch.testing.assert_close(searching.cross_entropy(out, targets), by_hand)
    change = out.outputs[1:] - out.outputs[:-1]
    by_hand = 2 * out.dropped.pow(2).mean() + 3 * change.pow(2).mean()
    torch.testing.assert_close(searching.activation_terms(out, 2.0, 3.0), by_hand)
    assert float(searching.activation_terms(of_one_word, 0.0, 1.0).detach()) == 0.0
    assert searching.perplexity(math.log(50)) == pytest.approx(50)
    assert searching.perplexity(1e6) == math.inf


def test_segments_follow_one_another_with_rates_masks_and_a_text_read_anew_has_no_past() -> None:
    run = RecurrentSearch(config(max_steps=0, bptt=35))
    drawn, read, anew = list[bytes](), list[Tensor](), list[bool]()
    for train, valid in run.batches(torch.Generator().manual_seed(0)):
        assert train[0].shape == valid[0].shape
        assert float(run.rate) == pytest.approx(20 * len(train[0]) / 35)
        drawn += [masks.hidden.numpy().tobytes() for masks in (run.train_masks, run.valid_masks)]
        read.append(valid[0])
        anew.append(not bool(run.valid_hidden.any()))
        run.valid_hidden.fill_(1)
    assert len(read) >= 6000 // 8 // 35
    assert len(set(drawn)) == len(drawn), "each segment of each text has masks of its own"
    assert anew == [torch.equal(words, run.valid[: len(words)]) for words in read]
    assert sum(anew) > 1, "the text must end, and begin again"
    joined = torch.cat(read[: anew.index(True, 1)])
    assert torch.equal(joined, run.valid[: len(joined)]), "one segment follows the other"


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


@pytest.mark.parametrize(("order", "clip"), [(1, 0.1), (2, 1e9)])
def test_a_step_as_the_original_takes_it_ends_where_ours_does(order: int, clip: float) -> None:
    """The alphas' loss has no activation terms, and all masks stay.

    The original's inner step is not clipped as ours is, so in second order no clip may act.
    """
    torch.set_default_dtype(torch.float64)
    given = {"scale": "laptop", "width": 5, "nodes": 3, "batch_size": 3, "order": order}
    given |= {"clip": clip, "learning_rate": 0.5, "ar": 2.0, "tar": 3.0, "weight_decay": 0.01}
    config = RecurrentSearchConfig.create(**given)
    torch.manual_seed(0)
    original = RecurrentOriginalSteps(config, 9, torch.device("cpu"))
    ours = RecurrentSearch(config, data=Corpus(*[torch.arange(9)] * 3, tuple("abcdefghi")))
    with torch.no_grad():
        for weight in original.net.parameters():
            weight.copy_(0.5 * torch.randn_like(weight))
    ours.net.load_state_dict(original.net.state_dict())
    assert ours.inner_step(0.5).clip == clip
    for masks in (original.masks, ours.train_masks, ours.valid_masks):
        masks.draw(torch.Generator().manual_seed(0))
    before = ours.alphas["recurrent"].detach().clone()
    train, valid = torch.randint(9, (2, 2, 4, 3), generator=torch.Generator().manual_seed(1))
    (original.first_order if order == 1 else original.second_order)(tuple(train), tuple(valid))
    ours.step(tuple(train), tuple(valid))
    norm = nn.utils.get_total_norm(weight.grad for weight in original.net.parameters())
    assert order == 2 or float(norm) == pytest.approx(clip, rel=1e-4), "it was clipped"
    alphas = original.alphas["recurrent"]
    torch.testing.assert_close(ours.alphas["recurrent"], alphas, rtol=1e-6, atol=1e-9)
    assert not torch.allclose(alphas, before)
    states = ours.net.state_dict(), original.net.state_dict()
    torch.testing.assert_close(*states, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(ours.train_hidden, original.hidden, rtol=1e-6, atol=1e-9)
    assert bool(ours.valid_hidden.any())
    assert not ours.train_hidden.requires_grad, "the next segment's first, without its graph"


@pytest.mark.deep
@pytest.mark.parametrize("name", ["recurrent search", "recurrent retraining"])
def test_nothing_grows_over_five_hundred_steps(name: str) -> None:
    tiny = {"dataset": "topics", "max_steps": 0, "width": 2, "batch_size": 2, "bptt": 2}
    run: Any = KINDS[name].run(KINDS[name].settings(**tiny))
    run.averaging, sizes = True, []
    batches = run.batches(torch.Generator().manual_seed(0))
    for number, batch in enumerate(itertools.islice(batches, 500), start=1):
        run.step(*batch)
        if number in (100, 500):
            sizes.append(live_tensors())
    assert sizes[0] == sizes[1], "(tensors, bytes) after 100 and after 500 steps"
    hidden = [run.train_hidden, run.valid_hidden] if run.alphas else [run.train_hidden]
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
