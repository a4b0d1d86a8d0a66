"""Text: corpora as word numbers, cut into columns and segments; and the simplest rival model.

A corpus is three long vectors of word numbers. `batchify` folds one into `batch` columns that are
read side by side; a segment is some rows of them, and its targets are the rows one further down.
Every random draw takes an explicit generator.
"""

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from torch import Tensor

from darts_lib.data.description import file_digest
from darts_lib.data.listing import SPLITS as FOLDER_SPLITS
from darts_lib.engine.files import is_there, kind_of_file, read_text
from darts_lib.engine.refusals import SettingsError

TEXTS = ("topics", "penn", "wikitext-2", "folder")
"""The corpora: `topics` are Python's help texts, which differ between its versions, so that only
shapes may depend on them; `folder` is a folder of your own three files."""

SPLITS = ("train", "valid", "test")
UNKNOWN, END = "<unk>", "<eos>"

TOPIC_TOKENS = (48_000, 6_000, 6_000)
TOPIC_WORDS = 2_000
"""So many commonest words of the help texts have a number of their own; `<unk>` is one more."""

Segment = tuple[int, int]  # its first row and its number of rows

KNOWN = {
    "penn": ((929_589, 73_760, 82_430), 10_000, "ptb.{}.txt"),
    "wikitext-2": ((2_088_628, 217_646, 245_569), 33_278, "wiki.{}.tokens"),
}
"""What a published corpus must hold: tokens by split and words; and its files' usual names.

Tokens include one `<eos>` a line; words are counted over the three files.
"""


@dataclass(frozen=True)
class Corpus:
    """Word numbers by split, each `(tokens,)` int64, and the words they stand for."""

    train: Tensor
    valid: Tensor
    test: Tensor
    words: tuple[str, ...]

    def first(self, tokens: int) -> "Corpus":
        """Return the corpus with the first `tokens` of the training text; 0 is all of it."""
        return replace(self, train=self.train[: tokens or None])


def load_text(dataset: str, root: Path) -> Corpus:
    """Read one of `TEXTS`; `penn` and `wikitext-2` are folders in `root`, `folder` is root itself.

    Words are numbered in the order in which they first appear, over all three files as in the
    original, so that published weights fit. Raises SettingsError, in one line with the way out,
    for a file that is missing, empty, not UTF-8 or, of a published corpus, cut short.
    """
    if dataset == "topics":
        return _read_topics()
    files = text_files(dataset, root)
    if any(file.stem not in SPLITS for file in files):
        print(f"reading {', '.join(file.name for file in files)} of {files[0].parent}", flush=True)
    texts = [_read(file, dataset) for file in files]
    corpus = _numbered(texts, dict.fromkeys(word for text in texts for word in text))
    if dataset in KNOWN:
        _check(corpus, dataset, files)
    elif problem := _unparted(texts[0]):
        print(f"warning: {files[0]} has {problem}; words are parted at spaces", flush=True)
    return corpus


def text_files(dataset: str, root: Path) -> list[Path]:
    """Return the files for training, validation and test, under the names by which they go.

    That is `train.txt`, `ptb.train.txt`, `wiki.train.tokens`, `dev.txt` and the like; what is not
    there has its usual name. Raises SettingsError where several could be meant.
    """
    folder = root if dataset == "folder" else root / dataset
    if dataset in KNOWN and root.name == dataset and not os.path.isdir(folder):
        raise SettingsError(f"{root} is {dataset} itself: data_root is {root.parent}.")
    usual = KNOWN[dataset][2] if dataset in KNOWN else "{}.txt"
    files, names = [], []
    with contextlib.suppress(OSError):  # told of when the first file cannot be read
        names = sorted(os.listdir(folder))
    for split in SPLITS:
        known = [name for name in (f"{split}.txt", usual.format(split)) if name in names]
        other = [name for name in names if _split_named(name) == split]
        if len(other) > 1 and not known:
            raise SettingsError(
                f"{folder} has several files for {split}, {', '.join(other)}: rename the one that "
                f"is meant to {split}.txt."
            )
        files.append(folder / (known or other or [f"{split}.txt"])[0])
    return files


def _split_named(name: str) -> str:
    """Return the split in the name of a text file, `ptb.valid.txt`; empty for another file."""
    words = re.split(r"[^a-z]+", name.lower())
    splits = {FOLDER_SPLITS[word] for word in words if word in FOLDER_SPLITS}
    return splits.pop() if words[-1] in ("txt", "tokens") and len(splits) == 1 else ""


def fingerprint(dataset: str, root: Path) -> dict[str, Any]:
    """Return digests of one's own three files; a text with a name needs none."""
    if dataset != "folder":
        return {}
    digests = {}
    for split, file in zip(SPLITS, text_files(dataset, root), strict=True):
        _check_there(file, dataset)
        digests[split] = file_digest(file, way_out=_way_out(dataset)).hex()
    return {"digest": digests}


def _unparted(words: Sequence[str]) -> str:
    """Say so if a text has hardly a space, as those of languages that are written without."""
    lines, letters = words.count(END), sum(map(len, words))
    if len(words) < 2.5 * lines:
        return "about one word a line"
    long = (letters - len(END) * lines) / max(1, len(words) - lines)
    return f"words of {long:.0f} letters" if long > 15 else ""


def _read(file: Path, dataset: str) -> list[str]:
    """Return the words of a file with `<eos>` at the end of each line, an empty one included."""
    _check_there(file, dataset)
    kind = kind_of_file(file)
    if kind and not kind.startswith(("a text", "empty")):  # a pointer or a web page is UTF-8 too
        raise SettingsError(f"{file} is {kind}, no text to learn from: {_way_out(dataset)}.")
    lines = read_text(file).split("\n")
    if not lines[-1].strip():
        lines.pop()  # what follows the last line's end
    words = [word for line in lines for word in [*line.split(), END]]
    if all(word == END for word in words):
        raise SettingsError(f"{file} is empty: {_way_out(dataset)}.")
    return words


def _check_there(file: Path, dataset: str) -> None:
    if not is_there(file):
        raise SettingsError(f"{file} is not there: {_way_out(dataset)}.")


def _way_out(dataset: str) -> str:
    if dataset in KNOWN:
        train, valid, test = map(KNOWN[dataset][2].format, SPLITS)
        return (
            f"put train.txt, valid.txt and test.txt into {dataset} of the data folder, known "
            f"elsewhere as {train}, {valid} and {test} (data/README.md says where to get them), "
            "or use dataset='topics', which needs no files"
        )
    return (
        "data_root must name a folder with train.txt, valid.txt and test.txt, words between spaces"
    )


def _check(corpus: Corpus, dataset: str, files: Sequence[Path]) -> None:
    """Refuse another edition of a published corpus than the one that others measure on."""
    tokens, words, _ = KNOWN[dataset]
    counts = list(zip(files, SPLITS, tokens, strict=True))
    for place, what, count in [*counts, (files[0].parent, "words", words)]:
        if (there := len(getattr(corpus, what))) != count:
            noun = "different words" if what == "words" else "tokens"
            raise SettingsError(
                f"{place} has {there:,} {noun}, not {count:,}: it is cut short or another edition; "
                f"{_way_out(dataset)}."
            )


def _numbered(texts: Sequence[Sequence[str]], words: Iterable[str]) -> Corpus:
    """Give numbers to words; one without a number of its own is `<unk>`."""
    names = tuple(words)
    numbers = {word: number for number, word in enumerate(names)}
    unknown = numbers.get(UNKNOWN, -1)
    train, valid, test = (torch.tensor([numbers.get(w, unknown) for w in text]) for text in texts)
    return Corpus(train, valid, test, names)


def _read_topics() -> Corpus:
    """Return Python's help texts: 48,000 tokens to train, 6,000 to validate, 6,000 to test.

    No topic is in two splits: in alphabetical order, each goes to the split that is the emptiest
    for its size.
    """
    texts: list[list[str]] = [[] for _ in SPLITS]
    pattern = re.compile(r"\w+|([^\w\s])\1*")  # words, and runs of one mark
    for topic in sorted(topics):
        shares = [len(text) / size for text, size in zip(texts, TOPIC_TOKENS, strict=True)]
        emptiest = texts[shares.index(min(shares))]
        for line in filter(str.strip, topics[topic].lower().splitlines()):
            emptiest += [*(match[0] for match in pattern.finditer(line)), END]
    texts = [text[:size] for text, size in zip(texts, TOPIC_TOKENS, strict=True)]
    counts = sorted(Counter(texts[0]).items(), key=lambda item: (-item[1], item[0]))
    return _numbered(texts, [UNKNOWN, *(word for word, _ in counts[:TOPIC_WORDS])])


def batchify(tokens: Tensor, batch: int, setting: str = "batch_size") -> Tensor:
    """Fold tokens into columns: `(rows, batch)`, each column a stretch of the text in order.

    What does not fill a row is left out. Raises SettingsError, which names the `setting`, where not
    even two rows are full.
    """
    rows = len(tokens) // batch
    if rows < 2:
        raise SettingsError(
            f"a text of {len(tokens):,} tokens is too short for {setting}={batch}: two rows are "
            f"the least; use a smaller {setting} or more text."
        )
    return tokens[: rows * batch].reshape(batch, rows).t().contiguous()


def segments(
    rows: int, bptt: int, generator: torch.Generator | None = None, spread: float = 0.0
) -> list[Segment]:
    """Cut `rows` into segments, each with a row after it for its last target.

    With a generator, lengths are drawn: `bptt` rows, or half of that once in twenty, plus a normal
    of standard deviation `spread`, at least 5 and at most bptt + 20. So the text is not cut at the
    same words in every epoch. Without one, all have `bptt` rows; the last has what is left.
    Source: the original code, after Merity et al., 2017.
    """
    parts, start = [], 0
    while start < rows - 1:
        length = bptt
        if generator is not None:
            uniform = float(torch.rand((), generator=generator))
            normal = float(torch.randn((), generator=generator))
            middle = bptt if uniform < 0.95 else bptt / 2
            length = int(min(max(5, middle + spread * normal), bptt + 20))
        parts.append((start, min(length, rows - 1 - start)))
        start += length
    return parts


def inputs_and_targets(columns: Tensor, segment: Segment) -> tuple[Tensor, Tensor]:
    """Return a segment's words and the words that follow them, both `(length, batch)`."""
    start, length = segment
    return columns[start : start + length], columns[start + 1 : start + 1 + length]


def unigram_perplexity(train: Tensor, text: Tensor, words: int) -> float:
    """Return the perplexity on `text` of word frequencies in `train`, each count plus one.

    The least that a language model must beat: it knows how common words are and nothing else.
    """
    counts = torch.bincount(train, minlength=words).double() + 1
    return float(torch.exp(-torch.log(counts / counts.sum())[text].mean()))
