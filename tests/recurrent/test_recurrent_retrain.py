"""Retraining a recurrent cell: averaging and its rule, the best weights, bad epochs tried again."""

import copy
import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from fuzz_tools import Printed
from kind_tools import write_text
from same_bits import bits
from torch import Tensor, nn

from darts_lib.data.text import Corpus, load_text, unigram_perplexity
from darts_lib.engine.batches import seed_epoch
from darts_lib.engine.folder import write_json
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.run import Run
from darts_lib.recurrent import retrain as retraining
from darts_lib.recurrent.retrain import RecurrentRetraining, load_network, retrain, stalled
from darts_lib.recurrent.search import Words

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
    twin = copy.deepcopy(run.net)
    asgd = torch.optim.ASGD(twin.parameters(), lr=2.0, lambd=0.0, t0=0.0, weight_decay=0.01)
    hidden, words = run.net.first_hidden(4), list(run.batches(torch.Generator().manual_seed(0)))
    run.rate.fill_(2.0)
    run.train_masks.draw(torch.Generator().manual_seed(0))
    for number, ((tokens, targets),) in enumerate([*words, words[0]]):
        run.averaging = number >= 1
        run.step((tokens, targets))
        asgd.zero_grad()
        out = twin(tokens, hidden, run.train_masks)
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
    torch.nn.init.normal_(run.net.encoder.weight, 0, 9.0)
    assert run.end()["valid_loss"] > row["valid_loss"]
    figures = run.result([row])
    write_json(tmp_path / "result.json", figures)
    net = load_network(tmp_path)
    assert all(torch.equal(value, best[name]) for name, value in net.named_parameters())
    assert net.decoder.weight is net.encoder.weight
    assert figures["test_loss"] < 2 * math.log(10), "that of the best"


def test_the_rate_is_the_segments_share(text: Path) -> None:
    run, lengths = RecurrentRetraining(config(text, max_steps=0, bptt=10, spread=3.0)), set[int]()
    for ((tokens, _),) in run.batches(torch.Generator().manual_seed(0)):
        assert float(run.rate) == pytest.approx(2.0 * len(tokens) / 10)
        lengths.add(len(tokens))
    assert len(lengths) > 3


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
    with pytest.raises(SettingsError, match="is a text that begins"):
        load_network(path)


def poison(run: RecurrentRetraining, attempts: int) -> None:
    """Let the masks be no numbers in the third step of so many attempts at an epoch."""
    step, taken = run.step, Counter[int]()

    def poisoned(words: Words) -> Tensor:
        taken[run.attempt] += 1
        if run.attempt < attempts and taken[run.attempt] == 3:
            run.train_masks.hidden.fill_(torch.nan)
        return step(words)

    run.recorded = poisoned


def averaged_once(text: Path) -> RecurrentRetraining:
    """Return a run after an epoch, with an average and best weights of its own."""
    run = RecurrentRetraining(config(text))
    run.averaging = True
    run.epoch(0)
    return run


def test_the_first_attempt_at_an_epoch_draws_as_ever() -> None:
    assert seed_epoch(3, 5, torch.device("cpu")).initial_seed() == 3_039_605


def test_a_bad_epoch_is_tried_again(text: Path, capsys: Printed) -> None:
    run, twin = averaged_once(text), averaged_once(text)
    poison(run, attempts=2)
    row = run.epoch(1)
    second, third = capsys.readouterr().out.splitlines()
    assert "the loss was no number in step 3 of epoch 2 (loss nan, learning rate 2)" in second
    assert "attempt 2 of 3" in second
    assert "attempt 3 of 3" in third
    twin.attempt = 2
    again = Run.epoch(twin, 1)
    assert bits(twin.state()) == bits(run.state()), "what remains is the third attempt's alone"
    assert (row["rollbacks"], row["train_loss"]) == (2, again["train_loss"])
    assert run.attempt == 0, "the next epoch draws as ever"
    assert run.optimiser.param_groups[0]["lr"] is run.rate


def test_after_three_bad_attempts_all_is_as_before_the_epoch(text: Path) -> None:
    run = averaged_once(text)
    before = bits(run.state())
    poison(run, attempts=3)
    with pytest.raises(FloatingPointError, match="step 3 of epoch 2 .* lower learning rate"):
        run.epoch(1)
    assert bits(run.state()) == before


def sliced(corpus: Corpus, tokens: int, least: int) -> Corpus:
    """Return the beginnings of the texts; words that are rare there become `<unk>`."""
    texts = corpus.train[:tokens], corpus.valid[: tokens // 10], corpus.test[: tokens // 20]
    counts = texts[0].bincount(minlength=len(corpus.words)).tolist()
    words = [w for w, count in zip(corpus.words, counts, strict=True) if count >= least]
    numbers = {word: number for number, word in enumerate(words)}
    renamed = torch.tensor([numbers.get(word, numbers["<unk>"]) for word in corpus.words])
    return Corpus(*(renamed[text] for text in texts), tuple(words))


@pytest.mark.deep
@pytest.mark.parametrize("dataset", [
    pytest.param(name, marks=pytest.mark.real_data(name)) for name in ("penn", "wikitext-2")
])  # fmt: skip
def test_on_real_text_a_cell_improves_each_epoch_and_beats_unigrams(
    dataset: str, real_data_root: Path, tmp_path: Path
) -> None:
    """The cell was found on Penn Treebank; WikiText-2 is where the paper takes it to."""
    corpus = sliced(load_text(dataset, real_data_root), 200_000, least=10)
    # A step's time is its words in a row, so wide batches are quick.
    given = {"width": 32, "batch_size": 80, "valid_batch_size": 20, "learning_rate": 10.0}
    settings = retraining.RecurrentRetrainConfig.create(scale="laptop", epochs=3, **given)
    run = RecurrentRetraining(settings, tmp_path, corpus)
    rows = [run.epoch(epoch) for epoch in range(3)]
    unigram = unigram_perplexity(corpus.train, corpus.valid, len(corpus.words))
    perplexities = [row["valid_perplexity"] for row in rows]
    assert perplexities[0] > perplexities[1] > perplexities[2] < unigram
    figures = run.result(rows)
    assert figures["test_perplexity"] < figures["unigram_test_perplexity"]
