"""Checks of chapter 06's exercises: a node's choice, perplexity, the size of a language model."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from darts_lib.cost.complexity import count_parameters
from darts_lib.recurrent.genotype import derive, random_genotype
from darts_lib.recurrent.network import derived_network
from darts_lib.recurrent.search_space import INPUTS, KIND, PRIMITIVES
from darts_lib.search_space import edges, row_offset
from darts_lib.teaching.exercises.answers import compare


def node_choice(choose: Callable[[Tensor], tuple[str, int]]) -> None:
    """Check `choose(logits)`: a node's (activation, source) by its edges' logits `(sources, 5)`."""
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
        logits = torch.randn(len(edges(3, INPUTS)), len(PRIMITIVES), generator=generator)
        right = derive({KIND: logits}).recurrent[2]
        found = _answer(choose, logits[row_offset(3, INPUTS) :])
        assert found == right, f"found {found}, but the library chooses {right}."


def _answer(choose: Callable[[Tensor], tuple[str, int]], logits: Tensor) -> tuple[str, int]:
    found = choose(logits.clone())
    is_pair = isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], str)
    assert is_pair, f"return a pair like ('tanh', 0), not {found!r}."
    assert found[0] in PRIMITIVES, f"{found[0]!r} is no activation; the columns are {PRIMITIVES}."
    return found[0], int(found[1])


def text_perplexity(perplexity: Callable[[Sequence[float], Sequence[int]], float]) -> None:
    """Check `perplexity(losses, words)`: a text's, from its segments' mean losses and lengths."""
    losses, words = torch.tensor([1.0, 4.0], dtype=torch.float64), torch.tensor([60, 20])
    answer, right = float(perplexity(losses.tolist(), words.tolist())), math.exp(1.75)
    averaged = "average the losses first and take exp once; a mean of perplexities is too high."
    mistakes = {
        2**1.75: "the losses are in nats: use exp.",
        1.75: "that is the mean loss; exp is missing.",
        losses.exp().mean(): averaged,
        (losses.exp() * words).sum() / words.sum(): averaged,
        math.exp(2.5): "segments differ in length: weigh each loss by its number of words.",
    }
    otherwise = f"found {answer:.3f}; losses 1 and 4 on 60 and 20 words give {right:.3f}."
    compare(answer, right, mistakes, otherwise)
    answer, right = float(perplexity([2.0, 4.0, 3.0], [35, 35, 5])), math.exp(3)
    compare(answer, right, {}, f"three segments must give {right:.3f}.")


def model_parameters(count: Callable[[int, int, int], int]) -> None:
    """Check `count(width, vocabulary, nodes)`: the parameters of a derived language model."""
    for width, vocabulary, nodes in ((850, 10_000, 8), (700, 33_278, 8), (850, 10_000, 11)):
        with torch.device("meta"):
            net = derived_network(random_genotype(0, nodes), width, vocabulary)
        found, right = count(width, vocabulary, nodes), count_parameters(net)
        hints = {
            width * vocabulary: "embedding and decoder share one matrix; count it once.",
            -vocabulary: "the decoder has a bias, one a word.",
            -2 * width**2: "W_0 reads the word and the hidden state, so it has 2 d rows.",
            -(nodes + 2) * width**2: "each matrix makes a gate and a candidate, so it has 2 d "
            "columns.",
        }
        assert found == right, hints.get(
            found - right,
            f"width {width}, {vocabulary:,} words, {nodes} nodes: {found:,}, but it is {right:,}.",
        )
