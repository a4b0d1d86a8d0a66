"""Text: corpora with their counts, files named when they are bad, columns, segments, unigrams."""

import hashlib
import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from fuzz_tools import Patch, examples, one_line, refusal_of
from hypothesis import example, given
from hypothesis import strategies as st

from darts_lib.data import text
from darts_lib.data.text import END, SPLITS, Corpus, load_text
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.settings import project_root

NOWHERE = Path("/nowhere")


def lay(folder: Path, **contents: bytes) -> Path:
    """Write a corpus; the splits not named have a text of their own."""
    folder.mkdir(exist_ok=True)
    for split, content in zip(SPLITS, (b"a b\n\nc a\n", b"a\n", b"d b\n"), strict=True):
        (folder / f"{split}.txt").write_bytes(contents.get(split, content))
    return folder


def sizes(corpus: Corpus) -> tuple[int, ...]:
    return len(corpus.train), len(corpus.valid), len(corpus.test), len(corpus.words)


def test_a_folder_of_ones_own_with_an_end_for_every_line(tmp_path: Path) -> None:
    corpus = load_text("folder", lay(tmp_path / "mine"))
    words = [corpus.words[i] for i in corpus.train]
    assert words == ["a", "b", "<eos>", "<eos>", "c", "a", "<eos>"]
    assert [corpus.words[i] for i in corpus.test] == ["d", "b", "<eos>"]
    assert corpus.words == ("a", "b", "<eos>", "c", "d"), "in the order of appearance"
    assert corpus.train.dtype == torch.int64
    assert sizes(corpus.first(3)) == (3, 2, 3, 5)
    assert sizes(corpus.first(0)) == (7, 2, 3, 5)


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


def test_another_pythons_texts_give_the_same_sizes_and_share_no_topic(
    monkeypatch: Patch,
) -> None:
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
    counts = (
        sizes(load_text("penn", real_data_root)),
        sizes(load_text("wikitext-2", real_data_root)),
    )
    assert counts == ((929_589, 73_760, 82_430, 10_000), (2_088_628, 217_646, 245_569, 33_278))


BAD: list[tuple[str, Callable[[Path], object], str]] = [
    ("train", lambda file: None, "cannot be read (No such file"),
    ("valid", Path.mkdir, "cannot be read (Is a directory"),
    ("valid", lambda file: file.symlink_to(file), "cannot be read"),
    ("test", lambda file: file.symlink_to("nowhere.txt"), "cannot be read (No such file"),
    ("test", lambda file: file.write_bytes(b""), "is empty"),
    ("test", lambda file: file.write_bytes(b" \n\n"), "is empty"),
    ("train", lambda file: file.write_bytes(b"a \xff\xfe b\n"), "is not UTF-8"),
    ("valid", lambda file: file.write_bytes(b"a\0b\0"), "is not UTF-8 text (NUL, as in UTF-16)"),
]


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    for number, (split, content, words) in enumerate(BAD):
        file = lay(tmp_path / f"mine {number}") / f"{split}.txt"
        file.unlink()
        content(file)
        refusal_of(partial(load_text, "folder", file.parent), str(file), words)


LETTERS = st.characters(exclude_categories=["Cs"]) | st.sampled_from("ab \t\u3000\xa0é\x85")
LINES = st.lists(st.text(LETTERS, max_size=12), max_size=6)
ENCODINGS = ["utf-8", "utf-8-sig", "latin-1", "utf-16", "utf-16-le", "utf-32-be", "cp037"]


def expected(text: str) -> list[str]:
    """Return the words as promised: split at blanks, with an end after each line."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if not lines[-1].strip():
        lines.pop()
    return [word for line in lines for word in [*line.split(), END]]


@given(LINES, st.sampled_from(["\n", "\r\n", "\r"]), st.booleans(),
    st.sampled_from(ENCODINGS), st.sampled_from(SPLITS))  # fmt: skip
@examples(20)
def test_a_text_in_any_encoding_is_read_right_or_named(
    lines: list[str], ending: str, last: bool, encoding: str, split: str
) -> None:
    text = ending.join(lines) + ending * last
    content = text.encode(encoding, "replace")
    with TemporaryDirectory() as folder:
        file = lay(Path(folder), **{split: content}) / f"{split}.txt"
        try:
            corpus = load_text("folder", Path(folder))
        except SettingsError as error:
            one_line(error, str(file))
            nothing = all(word == END for word in expected(text.removeprefix("\ufeff")))
            assert nothing or "\0" in text or not encoding.startswith("utf-8")
            return
    read_as = content.decode("utf-8-sig")
    assert [corpus.words[i] for i in getattr(corpus, split)] == expected(read_as)
    assert "\0" not in read_as
    assert encoding.startswith("utf-8") or content.isascii() or encoding in ("latin-1", "cp037")


def test_a_published_corpus_that_is_missing_or_cut_short_is_named(tmp_path: Path) -> None:
    way_out = r"into penn of .* as ptb\.train\.txt, ptb\.valid\.txt and ptb.* dataset='topics'"
    with pytest.raises(SettingsError, match=way_out):
        load_text("penn", tmp_path)
    with pytest.raises(SettingsError, match=r"as wiki\.train\.tokens, wiki\.valid\.tokens and"):
        load_text("wikitext-2", tmp_path)
    lay(tmp_path / "penn")
    with pytest.raises(SettingsError, match=r"train\.txt has 7 tokens, not 929,589: it is cut"):
        load_text("penn", tmp_path)
    lay(tmp_path / "mine", train=b"ab " * 300_000, valid=b"x" * 10**6)
    assert sizes(load_text("folder", tmp_path / "mine"))[:2] == (300_001, 2)


def test_columns_are_stretches_of_the_text() -> None:
    columns = text.batchify(torch.arange(11), 3)
    assert columns.tolist() == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
    inputs, targets = text.inputs_and_targets(columns, (0, 2))
    assert torch.equal(targets, inputs + 1)
    with pytest.raises(SettingsError, match="5 tokens is too short for valid_batch_size=3"):
        text.batchify(torch.arange(5), 3, "valid_batch_size")


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
    # 35, or 17 once in twenty; with a spread, normal and within 5 to 55.
    fixed = [n for _, n in text.segments(200_000, 35, torch.Generator().manual_seed(0))][:-1]
    assert set(fixed) == {35, 17}
    assert fixed.count(17) / len(fixed) == pytest.approx(0.05, abs=0.01)
    spread = [n for _, n in text.segments(200_000, 35, torch.Generator().manual_seed(0), 5.0)][:-1]
    assert min(spread) >= 5
    assert max(spread) <= 55
    long = torch.tensor([n for n in spread if n > 25], dtype=torch.float64)
    assert float(long.mean()) == pytest.approx(34.8, abs=0.5)  # cut down to whole numbers
    assert float(long.std()) == pytest.approx(5.0, abs=0.5)
    assert text.segments(100, 35) == [(0, 35), (35, 35), (70, 29)]
    cuts = [text.segments(900, 35, torch.Generator().manual_seed(seed), 5.0) for seed in (1, 1, 2)]
    assert cuts[0] == cuts[1] != cuts[2]


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
