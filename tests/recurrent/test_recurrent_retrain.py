"""Retraining a recurrent cell: averaging and its rule, the best weights, bad epochs tried again."""

import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from kind_tools import end_of, stop_after, write_text
from same_bits import bits
from torch import Tensor, nn

from darts_lib.data.text import load_text, unigram_perplexity
from darts_lib.engine.batches import seed_epoch
from darts_lib.engine.folder import write_json
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.run import Run
from darts_lib.recurrent import retrain as retraining
from darts_lib.recurrent.network import DerivedCell, LanguageModel, Masks
from darts_lib.recurrent.retrain import RecurrentRetraining, load_network, retrain, stalled

TINY = {"scale": "laptop", "dataset": "folder", "width": 6, "batch_size": 4, "epochs": 4}
TINY |= {"valid_batch_size": 2, "bptt": 8, "max_steps": 5, "patience": 1, "learning_rate": 2.0}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of text in which each word depends on the one before it."""
    return write_text(tmp_path_factory.mktemp("text"))


def config(text: Path, path: Path | str = "", **given: object) -> retraining.RecurrentRetrainConfig:
    settings = {**TINY, "data_root": str(text), "run_dir": str(path), **given}
    return retraining.RecurrentRetrainConfig.create(**settings)


@pytest.mark.parametrize(("losses", "newest", "expected"), [
    ([], 9.0, False),
    ([1.0, 2.0, 3.0, 4.0, 5.0], 9.0, False),  # five epochs are too few
    ([3.0, 2.0, 2.0, 2.0, 2.0, 2.0], 2.9, False),  # the last five, which are better, are out
    ([3.0, 2.0, 2.0, 2.0, 2.0, 2.0], 3.1, True),
    ([3.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0], 1.5, True),
    ([3.0, 2.0, 1.0, 2.0, 2.0, 2.0, 2.0], 1.5, False),
])  # fmt: skip
def test_the_non_monotone_rule(losses: list[float], newest: float, expected: bool) -> None:
    assert stalled(losses, newest, 5) is expected


def test_the_average_against_torchs_own_averaged_sgd(text: Path) -> None:
    """The mean of all weights since it began: torch's ASGD leaves out the first step alone."""
    run = RecurrentRetraining(config(text, weight_decay=0.01, clip=1e9, tar=0.0))
    twin = LanguageModel(DerivedCell(6, run.config.cell), run.net.vocabulary)
    twin.load_state_dict(run.net.state_dict())
    asgd = torch.optim.ASGD(twin.parameters(), lr=2.0, lambd=0.0, t0=0.0, weight_decay=0.01)
    hidden, words = run.net.first_hidden(4), list(run.batches(torch.Generator().manual_seed(0)))
    run.rate.fill_(2.0)
    run.masks.draw(torch.Generator().manual_seed(0))
    for number, ((tokens, targets),) in enumerate([*words, words[0]]):
        run.averaging = number >= 1
        run.step((tokens, targets))
        asgd.zero_grad()
        out = twin(tokens, hidden, run.masks)
        hidden = out.hidden.detach()
        nn.functional.cross_entropy(out.logits.flatten(0, 1), targets.flatten()).backward()
        asgd.step()
    weights = zip(run.net.parameters(), run.average.parameters(), twin.parameters(), strict=True)
    for own, average, weight in weights:
        torch.testing.assert_close(average, asgd.state[weight]["ax"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(own, weight, rtol=1e-4, atol=1e-5)


def test_the_average_is_evaluated_and_sgd_goes_on_from_its_own_weights(text: Path) -> None:
    run = averaged_once(text)
    evaluated = run.best["encoder.weight"]
    assert torch.equal(evaluated, run.average.encoder.weight)
    assert not torch.equal(evaluated, run.net.encoder.weight)


def test_the_best_weights_are_kept_and_tested_not_the_last(text: Path, tmp_path: Path) -> None:
    run = RecurrentRetraining(config(text), tmp_path)
    row = run.epoch(0)
    best = {name: value.clone() for name, value in run.best.items()}
    with torch.no_grad():
        run.net.encoder.weight.normal_(0, 9.0)
    assert run.end()["valid_loss"] > row["valid_loss"]
    figures = run.result([row])
    write_json(tmp_path / "result.json", figures)
    net = load_network(tmp_path)
    assert all(torch.equal(value, best[name]) for name, value in net.named_parameters())
    assert net.decoder.weight is net.encoder.weight
    assert figures["test_loss"] < 2 * math.log(10), "that of the best"


def test_the_rate_is_the_segments_share(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RecurrentRetraining(config(text, max_steps=0, bptt=10, spread=3.0))
    seen: list[tuple[int, float]] = []

    def step(words: tuple[Tensor, Tensor]) -> Tensor:
        seen.append((len(words[0]), float(run.rate)))
        return torch.ones(2)

    monkeypatch.setattr(run, "recorded", step)
    run.epoch(0)
    lengths, rates = zip(*seen, strict=True)
    assert len(set(lengths)) > 3
    assert rates == pytest.approx([2.0 * length / 10 for length in lengths])


def test_words_that_follow_a_rule_are_learned_beyond_unigrams(text: Path, tmp_path: Path) -> None:
    given = {"width": 16, "epochs": 4, "max_steps": 0, "learning_rate": 20.0}
    result = retrain(config(text, tmp_path / "rule", **given))
    figures = result.figures
    assert result.history[-1]["valid_loss"] < result.history[0]["valid_loss"]
    assert figures["test_perplexity"] < 0.7 * figures["unigram_test_perplexity"]


def test_a_run_leaves_its_history_result_and_network(text: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    result = retrain(config(text, path, learning_rate=30.0))
    perplexities = [row["valid_perplexity"] for row in result.history]
    assert perplexities == pytest.approx([math.exp(row["valid_loss"]) for row in result.history])
    averaged = [row["averaged"] for row in result.history]
    assert averaged == sorted(averaged)
    assert set(averaged) == {False, True}, "a case that averages"
    corpus, net = load_text("folder", text), load_network(path)
    out = net(corpus.test[:-1, None], net.first_hidden(1))
    by_hand = nn.functional.cross_entropy(out.logits[:, 0], corpus.test[1:]).detach()
    unigram = unigram_perplexity(corpus.train, corpus.test[1:], 10)
    expected = {
        "test_loss": pytest.approx(float(by_hand), rel=1e-5),
        "test_words": len(corpus.test) - 1,
        "parameters": 10 * 6 + 10 + 12 * 12 + 8 * 6 * 12,
        "unigram_test_perplexity": pytest.approx(unigram),
        "best_valid_perplexity": min(perplexities),
    }
    assert {name: result.figures[name] for name in expected} == expected
    with pytest.raises(SettingsError, match="holds no weights"):
        load_network(text)
    (path / "weights.safetensors").write_bytes(b"x" * 40)
    with pytest.raises(SettingsError, match="is damaged"):
        load_network(path)


def poison(monkeypatch: pytest.MonkeyPatch, epoch: int, attempts: int, first: int = 3) -> None:
    """Let the masks of some attempts at an epoch (from 0) be no numbers, from a step on.

    They are known by their seed, as the real masks are, so a continued run meets them again.
    """
    draw, drawn = Masks.draw, dict[int, int]()
    cpu = torch.device("cpu")
    bad = {seed_epoch(0, epoch, cpu, attempt).initial_seed() for attempt in range(attempts)}

    def poisoned(masks: Masks, generator: torch.Generator) -> Masks:
        seed = generator.initial_seed()
        drawn[seed] = drawn.get(seed, 0) + 1
        draw(masks, generator)
        if seed in bad and drawn[seed] >= first:
            assert masks.hidden is not None
            masks.hidden.fill_(torch.nan)
        return masks

    monkeypatch.setattr(Masks, "draw", poisoned)


def averaged_once(text: Path) -> RecurrentRetraining:
    """Return a run after an epoch, with an average and best weights of its own."""
    run = RecurrentRetraining(config(text))
    run.averaging = True
    run.epoch(0)
    return run


def test_attempts_draw_anew_and_the_first_draws_as_ever() -> None:
    cpu = torch.device("cpu")
    first, *others = [seed_epoch(3, 5, cpu, attempt).initial_seed() for attempt in range(3)]
    assert first == seed_epoch(3, 5, cpu).initial_seed() == torch.initial_seed() == 3_039_605
    assert len({first, *others}) == 3


def test_a_bad_epoch_is_given_up_and_tried_again_with_other_masks_and_cuts(
    text: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, twin = averaged_once(text), averaged_once(text)
    before, cuts = bits(run.state()), []
    restore, step = run.restore, run.step

    def restored(state: Any) -> None:
        restore(state)
        assert bits(run.state()) == before, "not as before the epoch"
        assert run.optimiser.param_groups[0]["lr"] is run.rate

    def stepped(words: tuple[Tensor, Tensor]) -> Tensor:
        cuts.append(len(words[0]))
        return step(words)

    monkeypatch.setattr(run, "restore", restored)
    monkeypatch.setattr(run, "recorded", stepped)
    with monkeypatch.context() as patch:
        poison(patch, epoch=1, attempts=2)
        row = run.epoch(1)
    second, third = capsys.readouterr().out.splitlines()
    assert "the loss was no number in step 3 of epoch 2 (loss nan, learning rate 2)" in second
    assert "attempt 2 of 3" in second
    assert "attempt 3 of 3" in third
    assert cuts[:5] != cuts[5:10] != cuts[10:]
    # What remains is the third attempt's alone.
    twin.attempt = 2
    again = Run.epoch(twin, 1)
    assert bits(twin.state()) == bits(run.state())
    assert (row["rollbacks"], row["train_loss"]) == (2, again["train_loss"])
    assert all(bool(weight.isfinite().all()) for weight in run.average.parameters())


def test_after_three_bad_attempts_the_run_ends_as_it_stood_before_the_epoch(
    text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = averaged_once(text)
    before = bits(run.state())
    poison(monkeypatch, epoch=1, attempts=3)
    with pytest.raises(FloatingPointError, match="step 3 of epoch 2 .* lower learning rate"):
        run.epoch(1)
    assert bits(run.state()) == before


@pytest.mark.parametrize("last", [1, 2])
def test_a_stopped_run_with_a_bad_epoch_goes_on_to_the_same_bits(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    ends = []
    for name in ("straight", "stopped"):
        settings = config(text, tmp_path / name, learning_rate=30.0)
        with monkeypatch.context() as patch:
            poison(patch, epoch=1, attempts=1)
            if name == "stopped":
                with pytest.raises(KeyboardInterrupt):
                    retrain(settings, stop_after(last))
            result = retrain(settings)
        assert [row["rollbacks"] for row in result.history] == [0, 1, 0, 0]
        ends.append(end_of(tmp_path / name))
    assert ends[0] == ends[1]


def sliced(source: Path, target: Path, tokens: int, least: int) -> Path:
    """Write the first lines of each file of a corpus, a tenth as many to validate and to test.

    Words that occur fewer than `least` times in the training slice become `<unk>`.
    """
    target.mkdir()
    kept: set[str] = set()
    for split, wanted in (("train", tokens), ("valid", tokens // 10), ("test", tokens // 20)):
        text = (source / f"{split}.txt").read_text(encoding="utf-8")
        lines = [line.split() for line in text.splitlines()]
        starts = itertools.accumulate((len(line) + 1 for line in lines), initial=0)
        lines = [line for line, start in zip(lines, starts, strict=False) if start < wanted]
        if split == "train":
            counts = Counter(word for line in lines for word in line)
            kept = {word for word, times in counts.items() if times >= least}
        rows = [" ".join(word if word in kept else "<unk>" for word in line) for line in lines]
        (target / f"{split}.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return target


@pytest.mark.deep
@pytest.mark.parametrize("dataset", [
    pytest.param(name, marks=pytest.mark.real_data(name)) for name in ("penn", "wikitext-2")
])  # fmt: skip
def test_on_real_text_a_cell_improves_each_epoch_and_beats_unigrams(
    dataset: str, real_data_root: Path, tmp_path: Path
) -> None:
    """The cell was found on Penn Treebank; WikiText-2 is where the paper takes it to."""
    folder = sliced(real_data_root / dataset, tmp_path / "slice", 200_000, least=10)
    # A step's time is its words in a row, so wide batches are quick.
    given = {"width": 32, "batch_size": 80, "valid_batch_size": 20, "learning_rate": 10.0}
    given |= {"scale": "laptop", "dataset": "folder", "epochs": 3}
    places = {"data_root": str(folder), "run_dir": str(tmp_path / "run")}
    result = retrain(retraining.RecurrentRetrainConfig.create(**given, **places))
    corpus = load_text("folder", folder)
    assert 200_000 <= len(corpus.train) < 201_000
    unigram = unigram_perplexity(corpus.train, corpus.valid, len(corpus.words))
    perplexities = [row["valid_perplexity"] for row in result.history]
    print(f"{len(corpus.words)} words, valid {perplexities}, unigram {unigram:.1f}")
    assert perplexities[0] > perplexities[1] > perplexities[2] < unigram
    assert result.figures["test_perplexity"] < result.figures["unigram_test_perplexity"]
