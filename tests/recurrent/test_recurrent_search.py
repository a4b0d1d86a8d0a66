"""A tiny recurrent search into its folder: its step, exact resume, refusals, memory and speed."""

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from same_bits import bits
from step_tools import NoWaiting
from torch import Tensor, nn

from darts_lib.bilevel import ROUTES
from darts_lib.cost import step_cost
from darts_lib.engine.files import unpack
from darts_lib.engine.refusals import SettingsError
from darts_lib.recurrent.cost import expected_cost
from darts_lib.recurrent.genotype import RecurrentGenotype, derive
from darts_lib.recurrent.network import LanguageModel, Masks
from darts_lib.recurrent.relaxation import SearchCell, initial_alphas
from darts_lib.recurrent.search import (
    RecurrentSearchConfig,
    a_step,
    load_search,
    read_search,
    search,
    warnings_of,
)
from darts_lib.recurrent.search_epoch import RecurrentSearch, evaluate_columns, perplexity
from darts_lib.recurrent.search_step import Words, activation_terms

TINY = {
    "scale": "laptop",
    "width": 6,
    "nodes": 2,
    "batch_size": 8,
    "bptt": 5,
    "max_steps": 3,
    "epochs": 3,
}


def config(path: Path | str = "", **given: object) -> RecurrentSearchConfig:
    return RecurrentSearchConfig.create(**{**TINY, "run_dir": str(path), **given})


def started(**given: object) -> tuple[RecurrentSearch, Words, Words]:
    run = RecurrentSearch(config(**given))
    train, valid = next(iter(run.batches(torch.Generator().manual_seed(0))))
    for masks in (run.train_masks, run.valid_masks):
        masks.draw(torch.Generator().manual_seed(0))
    return run, train, valid


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a search that was never stopped."""
    path = tmp_path_factory.mktemp("search") / "straight"
    search(config(path))
    return path


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
        ({"dataset": "pen"}, "unknown text 'pen'; did you mean penn?"),
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


@pytest.mark.parametrize("route", ROUTES)
def test_nothing_in_a_step_waits_for_the_device(route: str) -> None:
    run, train, valid = started(route=route)
    with NoWaiting():
        run.step(train, valid)
        run.step(train, valid)


def test_what_a_step_changes_is_all_that_it_changes_and_stays_in_place() -> None:
    run, train, valid = started()
    run.step(train, valid)
    before = [tensor.detach().clone() for tensor in run._changed()]
    places = [tensor.data_ptr() for tensor in run._changed()]
    ends = []
    for _ in range(2):
        run.step(train, valid)
        ends.append([tensor.detach().clone() for tensor in run._changed()])
        assert [tensor.data_ptr() for tensor in run._changed()] == places
        with torch.no_grad():
            for tensor, value in zip(run._changed(), before, strict=True):
                tensor.copy_(value)
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    assert not torch.equal(ends[0][0], before[0])


def test_the_weight_step_against_plain_sgd() -> None:
    """Loss with both activation terms, clip by the norm, the rate of the segment's length."""
    run, train, valid = started(ar=2.0, tar=3.0, weight_decay=0.01, clip=0.1, order=1)
    run.alpha_optimiser.param_groups[0]["lr"] = 0.0
    run.rate.fill_(1.5)
    twin = LanguageModel(SearchCell(6, 2), run.net.vocabulary)
    twin.load_state_dict(run.net.state_dict())
    alphas = {"recurrent": run.alphas["recurrent"].detach()}
    out = twin(train[0], twin.first_hidden(8), run.train_masks, alphas)
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
    run.valid_masks.draw(torch.Generator().manual_seed(9))
    run.step(train, valid)
    assert len(seen) == 5, "two on the training text for the gradient by w, three more"
    assert len({masks for _, masks in seen}) == len({tokens for tokens, _ in seen}) == 2


def test_a_segments_hidden_state_is_the_next_ones_first_without_its_graph() -> None:
    run, train, valid = started()
    run.step(train, valid)
    assert bool(run.train_hidden.any())
    assert bool(run.valid_hidden.any())
    assert not run.train_hidden.requires_grad
    assert run.train_hidden.grad_fn is None


def test_one_word_has_no_change_and_no_term() -> None:
    run, train, _ = started()
    one = (train[0][:1], train[1][:1])
    out = run.net(one[0], run.train_hidden, run.train_masks, run.alphas)
    assert float(activation_terms(out, 0.0, 1.0).detach()) == 0.0


def test_a_gradient_that_is_no_number_is_skipped_and_told() -> None:
    run, train, valid = started()
    with torch.no_grad():
        run.net.decoder.bias[0] = torch.nan
    before = run.weights["rnns.0._W0"].detach().clone()
    run.guard.begin()
    run.step(train, valid)
    assert torch.equal(run.weights["rnns.0._W0"], before)
    with pytest.raises(FloatingPointError, match="step 1 of epoch 1"):
        run.guard.check(1, 20.0, "folder")


# The epoch ---------------------------------------------------------------------------------------


def test_segments_of_both_texts_have_one_length_and_the_rate_follows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, rates, places = RecurrentSearch(config(max_steps=0, bptt=35)), [], []

    def step(train: Words, valid: Words) -> Tensor:
        assert train[0].shape == valid[0].shape
        rates.append(float(run.rate) / len(train[0]))
        places.append(valid[0])
        return torch.ones(2)

    monkeypatch.setattr(run, "step", step)
    run.epoch(0)
    assert rates == pytest.approx([20 / 35] * len(rates))
    assert len(rates) >= 6000 // 35
    joined = torch.cat(places[:10])
    assert torch.equal(joined, run.valid[: len(joined)]), "one segment follows the other"
    assert sum(torch.equal(part, places[0]) for part in places) > 1, "and the text begins anew"


def test_each_step_has_masks_of_its_own_and_a_text_read_anew_no_past(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = RecurrentSearch(config(max_steps=0, bptt=35))
    drawn: dict[str, list[Tensor]] = {"train": [], "valid": []}
    anew, first = [], []

    def step(train: Words, valid: Words) -> Tensor:
        for name, masks in (("train", run.train_masks), ("valid", run.valid_masks)):
            drawn[name] += [masks.hidden.clone()] if masks.hidden is not None else []
        anew.append(not bool(run.valid_hidden.any()))
        first.append(torch.equal(valid[0], run.valid[: len(valid[0])]))
        run.valid_hidden.fill_(1)
        return torch.ones(2)

    monkeypatch.setattr(run, "step", step)
    run.epoch(0)
    assert anew == first
    assert sum(anew) > 1, "the text must end, and begin again"
    for masks in drawn.values():
        assert len(masks) == len(anew)
        assert not any(torch.equal(one, other) for one, other in itertools.pairwise(masks))
    assert not any(map(torch.equal, *drawn.values())), "both texts have masks of their own"


def test_the_supernet_is_evaluated_at_the_batch_of_the_search() -> None:
    run = RecurrentSearch(config(max_steps=0))
    assert run.valid.shape[1] == 8
    loss, count = run.evaluate().tolist()
    assert count == run.valid[1:].numel()
    out = run.net(run.valid[:-1], run.net.first_hidden(8), alphas=run.alphas)
    whole = nn.functional.cross_entropy(out.logits.flatten(0, 1), run.valid[1:].flatten())
    assert loss / count == pytest.approx(float(whole.detach()), rel=1e-5)
    with pytest.raises(ValueError, match="at least 2"):
        evaluate_columns(run.net, run.valid[:, :1], 5, run.alphas)


def test_the_history_has_a_row_an_epoch_with_every_figure(straight: Path) -> None:
    found = read_search(straight)
    assert [row["epoch"] for row in found.history] == [1, 2, 3]
    for row in found.history:
        assert set(row) == {
            "epoch", "learning_rate", "train_loss", "train_perplexity", "valid_loss",
            "valid_perplexity", "entropy_recurrent", "alpha_change", "genotype", "seconds",
        }  # fmt: skip
        assert row["valid_perplexity"] == pytest.approx(math.exp(row["valid_loss"]))
        assert row["alpha_change"] > 0
    assert tuple(found.alphas["recurrent"].shape) == (4, 3, 5)
    for row, alphas in zip(found.history, found.alphas["recurrent"][1:], strict=True):
        assert RecurrentGenotype.from_dict(row["genotype"]) == derive({"recurrent": alphas})
    assert torch.equal(found.alphas["recurrent"][0], initial_alphas(2)["recurrent"].detach())
    result = json.loads((straight / "result.json").read_text())
    assert result["parameters"] == 2001 * 6 + 2001 + 12 * 12 + 2 * 6 * 12
    assert result["route"] == "finite_difference"


@pytest.mark.parametrize("last", [1, 2])
def test_a_search_that_was_stopped_goes_on_to_the_same_bits(
    straight: Path, tmp_path: Path, last: int
) -> None:
    def stop(row: dict[str, Any]) -> None:
        if row["epoch"] == last:
            raise KeyboardInterrupt

    on_epoch: Callable[[dict[str, Any]], None] = stop
    settings = config(tmp_path / "stopped")
    with pytest.raises(KeyboardInterrupt):
        search(settings, on_epoch)
    search(settings)
    here, there = (
        bits(unpack(folder / "checkpoint.pt")) for folder in (straight, tmp_path / "stopped")
    )
    assert here["state"]["alpha_optimiser"]["state"]
    for part in ("state", "alphas", "history"):
        assert here[part] == there[part], part


def test_a_finished_search_is_read_back_and_can_be_rebuilt(
    straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search(config(straight))
    assert "finished already" in capsys.readouterr().out
    run = load_search(straight)
    assert torch.equal(
        run.alphas["recurrent"].detach(), read_search(straight).alphas["recurrent"][-1]
    )
    with pytest.raises(SettingsError, match="other settings"):
        search(config(straight, bptt=6))
    with pytest.raises(SettingsError, match="holds no checkpoint"):
        load_search(straight.parent)


def test_what_looks_wrong_is_said() -> None:
    row = {"train_loss": math.log(50), "alpha_change": 0.0}
    assert len(warnings_of([row], 50)) == 2
    assert warnings_of([{"train_loss": 1.0, "alpha_change": 0.1}], 50) == []
    assert perplexity(math.log(50)) == pytest.approx(50)
    assert perplexity(1e6) == math.inf


def test_the_expected_cost_is_that_of_the_whole_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    # Its constant would hide the rest.
    monkeypatch.setattr(step_cost, "CPU_ALLOCATOR", (1.0, 0.0, 0))
    run = RecurrentSearch(config(bptt=12))
    memory, seconds = expected_cost(run, a_step)

    def whole(twin: RecurrentSearch) -> None:
        a_step(twin, torch.zeros(12, 8, dtype=torch.int64))

    assert memory == pytest.approx(step_cost.trace(run, whole).peak_bytes, rel=0.1)
    assert seconds > 0


@pytest.mark.slow
@pytest.mark.real_data("penn")
def test_on_penn_treebank_the_training_loss_of_a_search_falls(
    real_data_root: Path, tmp_path: Path
) -> None:
    found = search(
        config(
            tmp_path / "penn",
            dataset="penn",
            data_root=str(real_data_root),
            max_tokens=60_000,
            width=24,
            nodes=4,
            batch_size=32,
            bptt=20,
            max_steps=15,
            epochs=3,
        )
    )
    losses = [row["train_loss"] for row in found.history]
    assert losses[0] > losses[1] > losses[2]
    assert found.history[-1]["alpha_change"] > 0
