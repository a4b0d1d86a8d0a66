"""Text: corpora with their counts, files named when they are bad, columns, segments, unigrams."""

import hashlib
import math
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzz_tools import Patch, examples, refusal_of
from hypothesis import example, given
from hypothesis import strategies as st

from darts_lib.data import text
from darts_lib.data.text import SPLITS, Corpus, load_text
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.settings import project_root

NOWHERE = Path("/nowhere")


def lay(folder: Path, **contents: bytes) -> Path:
    """Write a corpus; the splits not named have a text of their own."""
    folder.mkdir(exist_ok=True)
    for split, content in zip(SPLITS, (b"a b\n\nc a\n", b"a\n", b"d b\n"), strict=True):
        (folder / f"{split}.txt").write_bytes(contents.get(split, content))
    return folder


def words(corpus: Corpus, split: str) -> str:
    return " ".join(corpus.words[i] for i in getattr(corpus, split))


def sizes(corpus: Corpus) -> tuple[int, ...]:
    return len(corpus.train), len(corpus.valid), len(corpus.test), len(corpus.words)


def test_a_folder_of_ones_own_with_an_end_for_every_line(tmp_path: Path) -> None:
    corpus = load_text("folder", lay(tmp_path / "mine"))
    assert words(corpus, "train") == "a b <eos> <eos> c a <eos>"
    assert words(corpus, "test") == "d b <eos>"
    assert corpus.words == ("a", "b", "<eos>", "c", "d"), "in the order of appearance"
    assert corpus.train.dtype == torch.int64
    assert sizes(corpus.first(3)) == (3, 2, 3, 5)
    assert sizes(corpus.first(0)) == (7, 2, 3, 5)


@pytest.mark.parametrize(("names", "words"), [
    ("ptb.train.txt ptb.valid.txt ptb.test.txt notes.txt", "reading ptb.train.txt, ptb.valid.txt"),
    ("wiki.train.tokens wiki.valid.tokens wiki.test.tokens", "reading wiki.train.tokens, "),
    ("train.txt val.txt test.txt", "reading train.txt, val.txt, test.txt of"),
    ("Training.TXT my_dev.txt my_test.txt", "reading Training.TXT, my_dev.txt, my_test.txt of"),
    ("train.txt valid.txt test.txt ptb.train.txt dev.txt", ""),
    ("a.train.txt b.train.txt valid.txt test.txt", "several files for train, a.train.txt, b.train"),
    ("train.txt test.txt", "valid.txt is not there"),
])  # fmt: skip
def test_files_go_by_their_usual_names(names: str, words: str, tmp_path: Path, capsys: Any) -> None:
    for name in names.split():
        (tmp_path / name).write_text(f"a text of {name}\n")
    if "several" in words or "is not" in words:
        refusal_of(lambda: load_text("folder", tmp_path), words)
        return
    load_text("folder", tmp_path)
    printed = capsys.readouterr().out
    assert printed.startswith(words) if words else not printed


@pytest.mark.parametrize(("content", "words"), [
    ("\u6211\u662f\n\u4f60\u597d\n" * 9, "about one word a line"),
    (f"{chr(0x6211) * 30} {chr(0x4f60) * 20}\u3002 {chr(0x597d) * 25}\n", "words of 25 letters"),
    ("a language with spaces\n", ""),
])  # fmt: skip
def test_a_text_without_spaces_is_told(
    content: str, words: str, tmp_path: Path, capsys: Any
) -> None:
    load_text("folder", lay(tmp_path / "mine", train=content.encode()))
    assert (words in capsys.readouterr().out) if words else not capsys.readouterr().out
    with pytest.raises(SettingsError, match="is penn itself: data_root is"):
        load_text("penn", lay(tmp_path / "penn"))


def test_the_embedded_text_has_its_fixed_sizes() -> None:
    corpus = load_text("topics", NOWHERE)
    assert sizes(corpus) == (48_000, 6_000, 6_000, 2_001)
    assert (corpus.words[0], "<eos>" in corpus.words, len({*corpus.words})) == ("<unk>", True, 2001)
    numbers = torch.cat([corpus.train, corpus.valid, corpus.test])
    assert 0 <= int(numbers.min()) <= int(numbers.max()) < 2_001
    assert float((corpus.train == 0).float().mean()) < 0.05
    assert float((corpus.valid == 0).float().mean()) < 0.3
    counts = torch.bincount(corpus.train, minlength=2_001)[1:]
    assert bool((counts[:-1] >= counts[1:]).all()), "commonest first"


def test_another_pythons_texts_have_the_same_sizes_and_share_no_topic(monkeypatch: Patch) -> None:
    other = {f"topic {i}": f"word{i} and {'x y z ' * i}.\n" * 25 for i in range(120)}
    other["all words"] = " ".join(f"w{i % 2500}" for i in range(9000))
    monkeypatch.setattr(text, "topics", other)
    assert sizes(load_text("topics", NOWHERE))[:3] == (48_000, 6_000, 6_000)
    monkeypatch.setattr(text, "topics", {f"{i:03}": f"word{i}\n" * 400 for i in range(100)})
    corpus = load_text("topics", NOWHERE)
    train, valid, test = (set(part.tolist()) for part in (corpus.train, corpus.valid, corpus.test))
    assert train & (valid | test) <= {0, corpus.words.index("<eos>")}
    assert len(train) > 50


@pytest.mark.deep
@pytest.mark.real_data("penn", "wikitext-2")
def test_published_corpora_have_their_published_counts(real_data_root: Path) -> None:
    penn, wikitext = (load_text(name, real_data_root) for name in ("penn", "wikitext-2"))
    assert sizes(penn) == (929_589, 73_760, 82_430, 10_000)
    assert sizes(wikitext) == (2_088_628, 217_646, 245_569, 33_278)


@pytest.mark.parametrize(("split", "content", "words"), [
    ("train", lambda file: None, "is not there: "),
    ("valid", Path.mkdir, "is a folder"),
    ("valid", lambda file: file.symlink_to(file), "cannot be read"),
    ("test", lambda file: file.symlink_to("nowhere.txt"), "is not there: "),
    ("test", lambda file: file.write_bytes(b""), "is empty"),
    ("test", lambda file: file.write_bytes(b" \n\n"), "is empty"),
    ("train", lambda file: file.write_bytes(b"a \xff\xfe b\n"), "is not UTF-8"),
    ("test", lambda file: file.write_text("é", "latin-1"), "is not UTF-8"),
    ("test", lambda file: file.write_text("a", "utf-16-le"), "is not UTF-8"),
    ("valid", lambda file: file.write_bytes(b"a\0b\0"), "is not UTF-8 text: save it"),
])  # fmt: skip
def test_a_bad_file_is_named(split: str, content: Any, words: str, tmp_path: Path) -> None:
    file = lay(tmp_path) / f"{split}.txt"
    file.unlink()
    content(file)
    refusal_of(lambda: load_text("folder", tmp_path), str(file), words)


@pytest.mark.parametrize(("content", "expected"), [
    (b"a b\nc\n", "a b <eos> c <eos>"),
    (b"a\nb", "a <eos> b <eos>"),
    (b"a\n\n \nb\n \t", "a <eos> <eos> <eos> b <eos>"),
    (b"a\r\nb\rc\r\n", "a <eos> b <eos> c <eos>"),
    (b"\xef\xbb\xbfa\n", "a <eos>"),  # the mark that some editors put before the text
    ("a\u3000b\xa0c é\n".encode(), "a b c é <eos>"),
    ("a\x85b\u2028c\x0cd\n".encode(), "a b c d <eos>"),  # where no line of a text file ends
])  # fmt: skip
def test_words_are_between_blanks(content: bytes, expected: str, tmp_path: Path) -> None:
    for split in SPLITS:
        corpus = load_text("folder", lay(tmp_path / split, **{split: content}))
        assert words(corpus, split) == expected


def test_a_published_corpus_that_is_missing_or_cut_short_is_named(tmp_path: Path) -> None:
    names = ["ptb.train.txt, ptb.valid.txt and ptb", "wiki.train.tokens, wiki.valid.tokens and"]
    for dataset, name in zip(("penn", "wikitext-2"), names, strict=True):
        way_out = [f"into {dataset} of", f"as {name}", "dataset='topics'"]
        refusal_of(partial(load_text, dataset, tmp_path), *way_out)
    lay(tmp_path / "penn")
    cut = "train.txt has 7 tokens, not 929,589: it is cut"
    refusal_of(lambda: load_text("penn", tmp_path), cut)
    lay(tmp_path / "mine", train=b"ab " * 300_000, valid=b"x" * 10**6)
    assert sizes(load_text("folder", tmp_path / "mine"))[:2] == (300_001, 2)


def test_columns_are_stretches_of_the_text() -> None:
    columns = text.batchify(torch.arange(11), 3)
    assert columns.tolist() == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
    inputs, targets = text.inputs_and_targets(columns, (0, 2))
    assert torch.equal(targets, inputs + 1)
    too_short = "5 tokens is too short for valid_batch_size=3"
    refusal_of(lambda: text.batchify(torch.arange(5), 3, "valid_batch_size"), too_short)


@example(spread=1e308, bptt=35, rows=300)
@given(spread=st.floats(0, 1e308), bptt=st.integers(2, 99), rows=st.integers(2, 500))
@examples(20)
def test_segments_cover_every_target_once(spread: float, bptt: int, rows: int) -> None:
    for generator in (None, torch.Generator().manual_seed(bptt)):
        cut = text.segments(rows, bptt, generator, spread)
        targets = [start + 1 + i for start, length in cut for i in range(length)]
        assert targets == list(range(1, rows))
        assert all(1 <= length <= bptt + 20 for _, length in cut)


def test_lengths_are_the_originals() -> None:
    """35, or 17 once in twenty; with a spread, normal and within 5 to 55."""

    def lengths(rows: int, seed: int, spread: float) -> list[int]:
        cut = text.segments(rows, 35, torch.Generator().manual_seed(seed), spread)
        return [length for _, length in cut][:-1]

    fixed, spread = lengths(200_000, 0, 0.0), lengths(200_000, 0, 5.0)
    assert set(fixed) == {35, 17}
    assert fixed.count(17) / len(fixed) == pytest.approx(0.05, abs=0.01)
    assert 5 <= min(spread) <= max(spread) <= 55
    long = torch.tensor([n for n in spread if n > 25], dtype=torch.float64)
    assert float(long.mean()) == pytest.approx(34.8, abs=0.5)  # cut down to whole numbers
    assert float(long.std()) == pytest.approx(5.0, abs=0.5)
    assert text.segments(100, 35) == [(0, 35), (35, 35), (70, 29)]
    assert lengths(900, 1, 5.0) == lengths(900, 1, 5.0) != lengths(900, 2, 5.0)


def test_unigram_perplexity_by_hand() -> None:
    train, valid = torch.tensor([0, 0, 1]), torch.tensor([0, 2])
    expected = math.exp(-(math.log(3 / 6) + math.log(1 / 6)) / 2)
    assert text.unigram_perplexity(train, valid, 3) == pytest.approx(expected)
    assert text.unigram_perplexity(*[torch.arange(50)] * 2, 50) == pytest.approx(50)


@pytest.mark.real_data("penn", "wikitext-2")
def test_the_page_of_the_data_has_the_sums_of_the_texts(real_data_root: Path) -> None:
    """Whoever finds the files elsewhere, as in pytorch/text#2247, can know them by their sums."""
    page = (project_root() / "data" / "README.md").read_text()
    rows = re.findall(r"^\| `([\w./-]+)` \| ([\d,]+) \| `([0-9a-f]{64})` \|$", page, re.MULTILINE)
    assert len(rows) == 6
    for name, size, expected in rows:
        content = (real_data_root / name).read_bytes()
        assert f"{len(content):,}" == size
        assert hashlib.sha256(content).hexdigest() == expected
