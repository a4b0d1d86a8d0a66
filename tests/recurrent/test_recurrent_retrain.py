"""A tiny recurrent retraining: averaging, its rule, exact resume, the test in one column."""

import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from same_bits import bits, digest
from step_tools import NoWaiting
from torch import Tensor, nn

from darts_lib.cost import step_cost
from darts_lib.data.text import load_text, unigram_perplexity
from darts_lib.engine.determinism import seed_epoch
from darts_lib.engine.files import unpack
from darts_lib.engine.refusals import SettingsError
from darts_lib.recurrent.averaging import stalled
from darts_lib.recurrent.cost import expected_cost
from darts_lib.recurrent.genotype import PUBLISHED
from darts_lib.recurrent.network import DerivedCell, LanguageModel, Masks
from darts_lib.recurrent.retrain import (
    RecurrentRetrainConfig,
    a_step,
    describe,
    load_network,
    retrain,
)
from darts_lib.recurrent.retrain_step import RecurrentRetraining

TINY = {"scale": "laptop", "dataset": "folder", "width": 6, "batch_size": 4, "epochs": 4}
TINY |= {"valid_batch_size": 2, "bptt": 8, "max_steps": 5, "patience": 1, "learning_rate": 2.0}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of text in which each word depends on the one before it."""
    folder = tmp_path_factory.mktemp("text")
    generator = torch.Generator().manual_seed(0)
    for split, lines in (("train", 200), ("valid", 20), ("test", 20)):
        rows = []
        for _ in range(lines):
            start = int(torch.randint(9, (), generator=generator))
            rows.append(" ".join(f"w{(start + 2 * i) % 9}" for i in range(7)))
        (folder / f"{split}.txt").write_text("\n".join(rows) + "\n")
    return folder


def config(text: Path, path: Path | str = "", **given: object) -> RecurrentRetrainConfig:
    settings = {**TINY, "data_root": str(text), "run_dir": str(path), **given}
    return RecurrentRetrainConfig.create(**settings)


@pytest.fixture(scope="module")
def straight(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a retraining that was never stopped, and that began to average."""
    path = tmp_path_factory.mktemp("retrain") / "straight"
    retrain(config(text, path, learning_rate=30.0))
    return path


# Settings ----------------------------------------------------------------------------------------


def test_the_presets_are_the_papers() -> None:
    paper = RecurrentRetrainConfig.create(scale="paper")
    assert (paper.dataset, paper.width, paper.batch_size, paper.bptt) == ("penn", 850, 64, 35)
    assert (paper.learning_rate, paper.weight_decay, paper.clip) == (20.0, 8e-7, 0.25)
    assert (paper.spread, paper.patience, paper.valid_batch_size) == (5.0, 5, 10)
    assert vars(paper.dropout) == {
        "words": 0.1, "embedding": 0.2, "cell_input": 0.75, "hidden": 0.25, "output": 0.75,
    }  # fmt: skip
    assert paper.cell == PUBLISHED["DARTS_V2"]
    assert RecurrentRetrainConfig.create(genotype="ENAS").cell.nodes == 11


def test_a_genotype_that_is_none_is_named() -> None:
    with pytest.raises(SettingsError, match="did you mean 'DARTS_V1'"):
        RecurrentRetrainConfig.create(genotype="DARTS_V1x")
    with pytest.raises(SettingsError, match="genotype is empty"):
        _ = RecurrentRetrainConfig.create(genotype="").cell
    with pytest.raises(SettingsError, match="unknown text 'digits'"):
        RecurrentRetrainConfig.create(dataset="digits")


# Averaging ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "newest", "expected"),
    [
        ([], 9.0, False),
        ([1.0, 2.0, 3.0, 4.0, 5.0], 9.0, False),  # five epochs are too few
        (
            [3.0, 2.0, 2.0, 2.0, 2.0, 2.0],
            2.9,
            False,
        ),  # worse than the last five, which do not count
        ([3.0, 2.0, 2.0, 2.0, 2.0, 2.0], 3.1, True),
        ([3.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0], 1.5, True),
        ([3.0, 2.0, 1.0, 2.0, 2.0, 2.0, 2.0], 1.5, False),
    ],
)
def test_the_non_monotone_rule(losses: list[float], newest: float, expected: bool) -> None:
    assert stalled(losses, newest, 5) is expected


def words_of(run: RecurrentRetraining, count: int) -> list[tuple[Tensor, Tensor]]:
    batches = list(run._batches(torch.Generator().manual_seed(0)))
    return [batches[i % len(batches)] for i in range(count)]


def test_the_average_is_the_mean_of_all_weights_since_it_began(text: Path) -> None:
    run = RecurrentRetraining(config(text))
    seen: list[list[Tensor]] = []
    for number, words in enumerate(words_of(run, 8)):
        run.averaging = number >= 3
        run.masks.draw(torch.Generator().manual_seed(number))
        run.step(words)
        if run.averaging:
            seen.append([weight.detach().clone() for weight in run.weights])
    for average, *values in zip(run.averages, *seen, strict=True):
        torch.testing.assert_close(average, torch.stack(values).mean(dim=0))
    assert not torch.allclose(run.averages[0], run.weights[0], rtol=1e-3)


def test_the_average_against_torchs_own_averaged_sgd(text: Path) -> None:
    """Torch's ASGD, with one rate, averages the same steps but the first."""
    run = RecurrentRetraining(config(text, weight_decay=0.01, clip=1e9, tar=0.0))
    twin = LanguageModel(DerivedCell(6, run.config.cell), run.net.vocabulary)
    twin.load_state_dict(run.net.state_dict())
    asgd = torch.optim.ASGD(twin.parameters(), lr=2.0, lambd=0.0, t0=0.0, weight_decay=0.01)
    hidden, words = run.net.first_hidden(4), words_of(run, 6)
    run.masks.draw(torch.Generator().manual_seed(0))
    for number, (tokens, targets) in enumerate(words):
        run.averaging = number >= 1
        run.step((tokens, targets))
        asgd.zero_grad()
        out = twin(tokens, hidden, run.masks)
        hidden = out.hidden.detach()
        nn.functional.cross_entropy(out.logits.flatten(0, 1), targets.flatten()).backward()
        asgd.step()
    for own, weight in zip(run.averages, twin.parameters(), strict=True):
        torch.testing.assert_close(own, asgd.state[weight]["ax"], rtol=1e-4, atol=1e-5)
    for own, weight in zip(run.weights, twin.parameters(), strict=True):
        torch.testing.assert_close(own, weight, rtol=1e-4, atol=1e-5)


def test_the_average_is_evaluated_and_sgd_goes_on_from_its_own_weights(text: Path) -> None:
    run = RecurrentRetraining(config(text))
    run.averaging = True
    run.epoch(0)
    own = [weight.detach().clone() for weight in run.weights]
    with run.averages_in_place():
        assert all(torch.equal(a, b) for a, b in zip(run.weights, run.averages, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(run.weights, own, strict=True))
    with pytest.raises(KeyboardInterrupt), run.averages_in_place():
        raise KeyboardInterrupt
    assert all(torch.equal(a, b) for a, b in zip(run.weights, own, strict=True))
    assert not torch.equal(run.best["encoder.weight"], run.net.encoder.weight)
    assert torch.equal(run.best["encoder.weight"], run.averages[0])


def test_the_best_weights_are_kept_not_the_last(text: Path) -> None:
    run = RecurrentRetraining(config(text))
    run.epoch(0)
    best = {name: value.clone() for name, value in run.best.items()}
    with torch.no_grad():
        run.net.encoder.weight.normal_(0, 9.0)
    run._validate()
    run.take_best()
    assert all(torch.equal(value, best[name]) for name, value in run.net.named_parameters())
    assert run.net.decoder.weight is run.net.encoder.weight


# The step and the epoch --------------------------------------------------------------------------


def test_nothing_in_a_step_waits_for_the_device(text: Path) -> None:
    run = RecurrentRetraining(config(text))
    run.averaging, (words,) = True, words_of(run, 1)
    with NoWaiting():
        run.step(words)


def test_the_rate_is_the_segments_share_and_lengths_differ(
    text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RecurrentRetraining(config(text, max_steps=0, bptt=10, spread=3.0))
    seen: list[tuple[int, float]] = []

    def step(words: tuple[Tensor, Tensor]) -> Tensor:
        seen.append((len(words[0]), float(run.rate)))
        return torch.ones(2)

    monkeypatch.setattr(run, "step", step)
    run.epoch(0)
    assert len({length for length, _ in seen}) > 3
    assert [rate for _, rate in seen] == pytest.approx([2.0 * length / 10 for length, _ in seen])


def test_a_gradient_that_is_no_number_ends_the_run(text: Path, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="of epoch 1 .* lower learning rate"):
        retrain(config(text, tmp_path / "bad", learning_rate=1e30, clip=1e30))


def test_what_it_will_cost_is_said_before_the_first_step(
    text: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Its constant would hide the rest.
    monkeypatch.setattr(step_cost, "CPU_ALLOCATOR", (1.0, 0.0, 0))
    run = RecurrentRetraining(config(text, bptt=12))
    before = bits(run.state())
    memory, seconds = expected_cost(run, a_step)

    def whole(twin: RecurrentRetraining) -> None:
        a_step(twin, torch.zeros(12, 4, dtype=torch.int64))

    assert memory == pytest.approx(step_cost.trace(run, whole).peak_bytes, rel=0.1)
    assert seconds > 0
    describe(run)
    assert re.search(
        r"a step adds about 0 MiB .* about \d+ s for 4 epochs", capsys.readouterr().out
    )
    assert bits(run.state()) == before, "only a copy is changed"


def test_words_that_follow_a_rule_are_learned_beyond_unigrams(text: Path, tmp_path: Path) -> None:
    found = retrain(
        config(text, tmp_path / "rule", width=16, epochs=4, max_steps=0, learning_rate=20.0)
    )
    losses = [row["valid_loss"] for row in found.history]
    assert losses[-1] < losses[0]
    assert found.test_perplexity < 0.7 * found.figures["unigram_test_perplexity"]


def test_a_run_leaves_its_history_result_and_network(straight: Path, text: Path) -> None:
    found = retrain(config(text, straight, learning_rate=30.0))
    for number, row in enumerate(found.history, 1):
        assert row["epoch"] == number
        assert row["valid_perplexity"] == pytest.approx(math.exp(row["valid_loss"]))
    assert found.history[0]["averaged"] is False
    assert found.history[-1]["averaged"] is True, "the case must be one that averages"
    corpus = load_text("folder", text)
    net = load_network(straight)
    out = net(corpus.test[:-1, None], net.first_hidden(1))
    by_hand = nn.functional.cross_entropy(out.logits[:, 0], corpus.test[1:])
    assert found.figures["test_loss"] == pytest.approx(float(by_hand.detach()), rel=1e-5)
    assert found.figures["test_words"] == len(corpus.test) - 1
    assert found.figures["parameters"] == 10 * 6 + 10 + 12 * 12 + 8 * 6 * 12
    unigram = unigram_perplexity(corpus.train, corpus.test[1:], 10)
    assert found.figures["unigram_test_perplexity"] == pytest.approx(unigram)
    with pytest.raises(SettingsError, match="holds no weights"):
        load_network(text)


def test_what_is_kept_and_tested_are_the_best_weights_not_the_last(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the last epoch had lost everything."""
    own = RecurrentRetraining.epoch

    def lost(run: RecurrentRetraining, epoch: int) -> dict[str, Any]:
        row = own(run, epoch)
        if epoch == TINY["epochs"] - 1:  # type: ignore[operator]
            with torch.no_grad():
                for weight in run.net.parameters():
                    weight.zero_()
        return row

    monkeypatch.setattr(RecurrentRetraining, "epoch", lost)
    found = retrain(config(text, tmp_path / "run"))
    assert all(bool(weight.any()) for weight in load_network(tmp_path / "run").parameters())
    assert found.figures["test_loss"] != pytest.approx(math.log(10)), "of all words alike"


def test_a_damaged_file_of_weights_is_named(straight: Path, tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"x" * 40)
    with pytest.raises(SettingsError, match="is damaged"):
        load_network(tmp_path)


@pytest.mark.parametrize("last", [1, 3])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(
    straight: Path, text: Path, tmp_path: Path, last: int
) -> None:
    def stop(row: dict[str, Any]) -> None:
        if row["epoch"] == last:
            raise KeyboardInterrupt

    on_epoch: Callable[[dict[str, Any]], None] = stop
    settings = config(text, tmp_path / "stopped", learning_rate=30.0)
    with pytest.raises(KeyboardInterrupt):
        retrain(settings, on_epoch)
    retrain(settings)
    here, there = (
        bits(unpack(folder / "checkpoint.pt")) for folder in (straight, tmp_path / "stopped")
    )
    assert here["state"]["averaged_steps"] > 0
    for part in ("state", "history"):
        assert here[part] == there[part], part
    weights = [folder / "weights.safetensors" for folder in (straight, tmp_path / "stopped")]
    assert digest(weights[0]) == digest(weights[1])


# Going back ---------------------------------------------------------------------------------------


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
    seeds = [seed_epoch(3, 5, cpu, attempt).initial_seed() for attempt in range(3)]
    assert seeds[0] == seed_epoch(3, 5, cpu).initial_seed() == 3 * 1_000_003 + 5 * 7919 + 1
    assert len(set(seeds)) == 3
    assert torch.initial_seed() == seeds[0]


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
    monkeypatch.setattr(run, "step", stepped)
    with monkeypatch.context() as patch:
        poison(patch, epoch=1, attempts=2)
        row = run.epoch(1)
    assert row["rollbacks"] == 2
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2
    assert "the loss was no number in step 3 of epoch 2 (loss nan, learning rate 2)" in said[0]
    assert "attempt 2 of 3" in said[0]
    assert "attempt 3 of 3" in said[1]
    assert cuts[:5] != cuts[5:10] != cuts[10:]
    # What remains is the third attempt's alone.
    again = twin._attempt(1, 2)
    assert bits(twin.state()) == bits(run.state())
    assert row["train_loss"] == again["train_loss"]
    assert all(bool(weight.isfinite().all()) for weight in [*run.weights, *run.averages])


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
    def stop(row: dict[str, Any]) -> None:
        if row["epoch"] == last:
            raise KeyboardInterrupt

    on_epoch: Callable[[dict[str, Any]], None] = stop
    ends = []
    for name in ("straight", "stopped"):
        settings = config(text, tmp_path / name, learning_rate=30.0)
        with monkeypatch.context() as patch:
            poison(patch, epoch=1, attempts=1)
            if name == "stopped":
                with pytest.raises(KeyboardInterrupt):
                    retrain(settings, on_epoch)
            found = retrain(settings)
        assert [row["rollbacks"] for row in found.history] == [0, 1, 0, 0]
        ends.append(bits(unpack(tmp_path / name / "checkpoint.pt")))
    for part in ("state", "history"):
        assert ends[0][part] == ends[1][part], part


# Real text ---------------------------------------------------------------------------------------


def sliced(source: Path, target: Path, tokens: int, least: int) -> Path:
    """Write the first lines of each file of a corpus, a tenth as many to validate and to test.

    Words that occur fewer than `least` times in the training slice become `<unk>`.
    """
    target.mkdir()
    kept: set[str] = set()
    for split, wanted in (("train", tokens), ("valid", tokens // 10), ("test", tokens // 20)):
        lines, count = [], 0
        for line in (source / f"{split}.txt").read_text(encoding="utf-8").splitlines():
            if count >= wanted:
                break
            lines.append(line.split())
            count += len(lines[-1]) + 1
        if split == "train":
            counts = Counter(word for line in lines for word in line)
            kept = {word for word, times in counts.items() if times >= least}
        rows = [" ".join(word if word in kept else "<unk>" for word in line) for line in lines]
        (target / f"{split}.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return target


@pytest.mark.slow
@pytest.mark.parametrize(
    "dataset",
    [pytest.param(name, marks=pytest.mark.real_data(name)) for name in ("penn", "wikitext-2")],
)
def test_on_real_text_a_cell_improves_each_epoch_and_beats_unigrams(
    dataset: str, real_data_root: Path, tmp_path: Path
) -> None:
    """The cell was found on Penn Treebank; WikiText-2 is where the paper takes it to."""
    folder = sliced(real_data_root / dataset, tmp_path / "slice", 200_000, least=10)
    found = retrain(
        RecurrentRetrainConfig.create(
            scale="laptop",
            dataset="folder",
            data_root=str(folder),
            run_dir=str(tmp_path / "run"),
            epochs=3,
            width=32,
            batch_size=80,  # a step's time is its words in a row, so wide batches are quick
            valid_batch_size=20,
            learning_rate=10.0,
        )
    )
    corpus = load_text("folder", folder)
    assert 200_000 <= len(corpus.train) < 201_000
    unigram = unigram_perplexity(corpus.train, corpus.valid, len(corpus.words))
    perplexities = [row["valid_perplexity"] for row in found.history]
    print(f"{len(corpus.words)} words, valid {perplexities}, unigram {unigram:.1f}")
    assert perplexities[0] > perplexities[1] > perplexities[2]
    assert perplexities[-1] < unigram
    assert found.test_perplexity < found.figures["unigram_test_perplexity"]
