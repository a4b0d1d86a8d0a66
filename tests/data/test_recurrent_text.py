"""Text: corpora with their counts, files named when they are bad, columns, segments, unigrams."""

import math
from pathlib import Path

import pytest
import torch

from darts_lib.data import text
from darts_lib.data.text import (
    Corpus,
    batchify,
    inputs_and_targets,
    load_text,
    segments,
    unigram_perplexity,
)
from darts_lib.engine.refusals import SettingsError


def lay(folder: Path, train: str = "a b\n\nc a\n", valid: str = "a\n", test: str = "d b\n") -> Path:
    folder.mkdir(exist_ok=True)
    for split, content in (("train", train), ("valid", valid), ("test", test)):
        (folder / f"{split}.txt").write_text(content, encoding="utf-8")
    return folder


# Corpora -----------------------------------------------------------------------------------------


def test_a_folder_of_ones_own_with_an_end_for_every_line(tmp_path: Path) -> None:
    corpus = load_text("folder", lay(tmp_path / "mine"))
    words = [corpus.words[i] for i in corpus.train]
    assert words == ["a", "b", "<eos>", "<eos>", "c", "a", "<eos>"]
    assert [corpus.words[i] for i in corpus.test] == ["d", "b", "<eos>"]
    assert corpus.words == ("a", "b", "<eos>", "c", "d"), "in the order of appearance"
    assert corpus.train.dtype == torch.int64


def test_the_last_lines_end_is_no_line_and_its_absence_loses_none(tmp_path: Path) -> None:
    with_end = load_text("folder", lay(tmp_path / "a", train="a b\nc\n"))
    without = load_text("folder", lay(tmp_path / "b", train="a b\nc"))
    assert torch.equal(with_end.train, without.train)


def check_topics(corpus: Corpus) -> None:
    assert tuple(map(len, (corpus.train, corpus.valid, corpus.test))) == (48_000, 6_000, 6_000)
    assert len(corpus.words) == len(set(corpus.words)) == 2_001
    assert corpus.words[0] == "<unk>"
    assert "<eos>" in corpus.words
    for part in (corpus.train, corpus.valid, corpus.test):
        assert int(part.min()) >= 0
        assert int(part.max()) < 2_001


def test_the_embedded_text_has_its_fixed_sizes() -> None:
    corpus = load_text("topics", Path("/nowhere"))
    check_topics(corpus)
    assert float((corpus.train == 0).float().mean()) < 0.05
    assert float((corpus.valid == 0).float().mean()) < 0.3
    counts = torch.bincount(corpus.train, minlength=2_001)[1:]
    assert bool((counts[:-1] >= counts[1:]).all()), "commonest first"


def test_another_pythons_texts_give_the_same_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    other = {f"topic {i}": f"word{i} and {'x y z ' * i}.\n" * 25 for i in range(120)}
    other["all words"] = " ".join(f"w{i % 2500}" for i in range(9000))
    monkeypatch.setattr(text, "topics", other)
    corpus = load_text("topics", Path("/nowhere"))
    assert tuple(map(len, (corpus.train, corpus.valid, corpus.test))) == (48_000, 6_000, 6_000)


def test_no_topic_is_in_two_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "topics", {f"{i:03}": f"word{i}\n" * 400 for i in range(100)})
    corpus = load_text("topics", Path("/nowhere"))
    train, valid, test = (
        {int(i) for i in part} for part in (corpus.train, corpus.valid, corpus.test)
    )
    own = corpus.words.index("<eos>")
    assert train & valid <= {0, own}
    assert train & test <= {0, own}
    assert len(train) > 50


def test_the_first_tokens_of_the_training_text(tmp_path: Path) -> None:
    corpus = load_text("folder", lay(tmp_path / "mine"))
    assert len(corpus.first(3).train) == 3
    assert len(corpus.first(3).words) == len(corpus.words)
    assert len(corpus.first(0).train) == len(corpus.train)


@pytest.mark.real_data("penn")
def test_penn_has_its_published_counts(real_data_root: Path) -> None:
    corpus = load_text("penn", real_data_root)
    assert (len(corpus.train), len(corpus.valid), len(corpus.test)) == (929_589, 73_760, 82_430)
    assert len(corpus.words) == 10_000


@pytest.mark.real_data("wikitext-2")
def test_wikitext_2_has_its_published_counts(real_data_root: Path) -> None:
    corpus = load_text("wikitext-2", real_data_root)
    assert (len(corpus.train), len(corpus.valid)) == (2_088_628, 217_646)
    assert (len(corpus.test), len(corpus.words)) == (245_569, 33_278)


@pytest.mark.parametrize(
    ("split", "content", "words"),
    [
        ("train", None, "No such file"),
        ("valid", None, "No such file"),
        ("test", b"", "is empty"),
        ("test", b" \n\n", "is empty"),
        ("train", b"a \xff\xfe b\n", "is not UTF-8"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, split: str, content: bytes | None, words: str) -> None:
    folder = lay(tmp_path / "mine")
    file = folder / f"{split}.txt"
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        load_text("folder", folder)
    message = str(caught.value)
    assert str(file) in message
    assert words in message
    assert "\n" not in message


def test_a_published_corpus_that_is_missing_or_cut_short_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load_text("penn", tmp_path)
    assert "ptb.train.txt" in str(caught.value)
    assert "dataset='topics'" in str(caught.value)
    lay(tmp_path / "penn")
    with pytest.raises(SettingsError) as caught:
        load_text("penn", tmp_path)
    assert "train.txt has 7 tokens, not 929,589: it is cut short" in str(caught.value)


# Columns and segments ----------------------------------------------------------------------------


def test_columns_are_stretches_of_the_text() -> None:
    columns = batchify(torch.arange(11), 3)
    assert columns.tolist() == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
    inputs, targets = inputs_and_targets(columns, (0, 2))
    assert torch.equal(targets, inputs + 1)
    with pytest.raises(SettingsError, match="5 tokens is too short for batch_size=3"):
        batchify(torch.arange(5), 3)


@pytest.mark.parametrize("spread", [0.0, 5.0])
@pytest.mark.parametrize("rows", [2, 3, 36, 37, 500])
def test_segments_cover_every_target_once(rows: int, spread: float) -> None:
    for generator in (None, torch.Generator().manual_seed(0)):
        found = segments(rows, 35, generator, spread)
        targets = [start + 1 + i for start, length in found for i in range(length)]
        assert targets == list(range(1, rows))


def test_lengths_are_the_originals() -> None:
    """35, or 17 once in twenty; with a spread, normal and within 5 to 55."""
    fixed = [n for _, n in segments(200_000, 35, torch.Generator().manual_seed(0))][:-1]
    assert set(fixed) == {35, 17}
    assert fixed.count(17) / len(fixed) == pytest.approx(0.05, abs=0.01)
    spread = [n for _, n in segments(200_000, 35, torch.Generator().manual_seed(0), 5.0)][:-1]
    assert min(spread) >= 5
    assert max(spread) <= 55
    long = torch.tensor([n for n in spread if n > 25], dtype=torch.float64)
    assert float(long.mean()) == pytest.approx(34.8, abs=0.5)  # cut down to whole numbers
    assert float(long.std()) == pytest.approx(5.0, abs=0.5)
    assert segments(100, 35) == [(0, 35), (35, 35), (70, 29)]


def test_lengths_follow_their_generator_alone() -> None:
    found = [segments(900, 35, torch.Generator().manual_seed(seed), 5.0) for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]


# The simplest rival ------------------------------------------------------------------------------


def test_unigram_perplexity_by_hand() -> None:
    train, valid = torch.tensor([0, 0, 1]), torch.tensor([0, 2])
    expected = math.exp(-(math.log(3 / 6) + math.log(1 / 6)) / 2)
    assert unigram_perplexity(train, valid, 3) == pytest.approx(expected)
    uniform = unigram_perplexity(torch.arange(50), torch.arange(50), 50)
    assert uniform == pytest.approx(50)
