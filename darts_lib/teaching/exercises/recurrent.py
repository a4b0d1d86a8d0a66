"""Checks of chapter 06's exercises: a node's choice, perplexity, the size of a language model."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from darts_lib.cost.complexity import count_parameters
from darts_lib.recurrent.genotype import RecurrentGenotype, derive, random_genotype
from darts_lib.recurrent.network import derived_network
from darts_lib.recurrent.search_space import KIND, PRIMITIVES, edges, row_offset

Choose = Callable[[Tensor], tuple[str, int]]
"""Takes the logits of one node's edges, `(sources, 5)`, and returns (activation, source)."""

Perplexity = Callable[[Sequence[float], Sequence[int]], float]
"""Takes the mean loss (nats a word) and the number of words of each segment."""

THIRD_NODE = slice(row_offset(3), row_offset(4))


def node_choice(choose: Choose) -> None:
    """Check `choose(logits)`: the (activation, source) that the derivation keeps for a node."""
    by_none = torch.tensor([[0.0, 1.0, 0.0, 0.0, 0.0], [9.0, 0.0, 2.0, 0.0, 0.0]])
    name, source = _answer(choose, by_none)
    assert name != "none", "`none` competes in the softmax, but no cell contains it."
    assert source == 0, (
        "an edge that prefers `none` is weak: leave `none` out after the softmax, not before."
    )
    spread = torch.tensor([[-9.0, 2.0, 2.0, 2.0, 2.0], [0.0, 4.0, 0.0, 0.0, 0.0]])
    assert _answer(choose, spread)[1] == 1, (
        "compare edges by their largest weight, not by the sum over activations."
    )
    sharp = torch.tensor([[0.0, 3.0, 3.0, 3.0, 3.0], [0.0, 2.9, 0.0, 0.0, 0.0]])
    assert _answer(choose, sharp)[1] == 1, (
        "logits of two edges cannot be compared; take the softmax over each edge first."
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        logits = torch.randn(len(edges(3)), len(PRIMITIVES), generator=generator)
        right = derive({KIND: logits}).recurrent[2]
        found = _answer(choose, logits[THIRD_NODE])
        assert found == right, f"found {found}, but the library chooses {right}."


def _answer(choose: Choose, logits: Tensor) -> tuple[str, int]:
    found = choose(logits.clone())
    is_pair = isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], str)
    assert is_pair, f"return a pair like ('tanh', 0), not {found!r}."
    assert found[0] in PRIMITIVES, f"{found[0]!r} is no activation; the columns are {PRIMITIVES}."
    return found[0], int(found[1])


def text_perplexity(perplexity: Perplexity) -> None:
    """Check `perplexity(losses, words)`: that of a whole text, from its segments."""
    losses, words = [2.0, 4.0, 3.0], [35, 35, 5]
    total = sum(loss * count for loss, count in zip(losses, words, strict=True))
    right = math.exp(total / sum(words))
    found = float(perplexity(losses, words))
    mean = sum(math.exp(loss) for loss in losses) / 3
    weighted = sum(n * math.exp(x) for x, n in zip(losses, words, strict=True)) / sum(words)
    assert not _close(found, 2 ** (total / sum(words))), "the losses are in nats: use exp."
    assert not _close(found, total / sum(words)), "that is the mean loss; exp is missing."
    for wrong in (mean, weighted):
        assert not _close(found, wrong), (
            "average the losses first and take exp once; a mean of perplexities is too high."
        )
    losses, words = [1.0, 4.0], [60, 20]
    found = float(perplexity(losses, words))
    assert not _close(found, math.exp(2.5)), (
        "segments differ in length: weigh each loss by its number of words."
    )
    assert _close(found, math.exp(1.75)), (
        f"found {found:.3f}; losses 1 and 4 on 60 and 20 words give {math.exp(1.75):.3f}."
    )
    assert _close(float(perplexity([2.0, 4.0, 3.0], [35, 35, 5])), right), (
        f"three segments must give {right:.3f}."
    )


def _close(found: float, other: float) -> bool:
    """Say whether two figures agree as far as float32 may round."""
    return math.isclose(found, other, rel_tol=1e-5)


def model_parameters(count: Callable[[int, int, int], int]) -> None:
    """Check `count(width, vocabulary, nodes)`: the parameters of a derived language model."""
    for width, vocabulary, nodes in ((850, 10_000, 8), (700, 33_278, 8), (850, 10_000, 11)):
        found, right = count(width, vocabulary, nodes), _size(width, vocabulary, nodes)
        excess = found - right
        assert excess != width * vocabulary, (
            "embedding and decoder share one matrix; count it once."
        )
        assert excess != -vocabulary, "the decoder has a bias, one a word."
        assert excess != -2 * width * width, (
            "W_0 reads the word and the hidden state, so it has 2 d rows."
        )
        assert excess != -(nodes + 2) * width * width, (
            "each matrix makes a gate and a candidate, so it has 2 d columns."
        )
        assert found == right, (
            f"width {width}, {vocabulary:,} words, {nodes} nodes: {found:,}, but it is {right:,}."
        )


def _size(width: int, vocabulary: int, nodes: int) -> int:
    cell: RecurrentGenotype = random_genotype(0, nodes)
    with torch.device("meta"):
        return count_parameters(derived_network(cell, width, vocabulary))
