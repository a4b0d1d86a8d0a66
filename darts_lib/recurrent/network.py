"""The language model, around the relaxed cell or a derived one, and its dropout masks.

    words -> embedding -> cell, step by step -> decoder -> logits of the next word

The decoder's matrix is the embedding (tied), with a bias of its own. A derived cell has no
normalisation; it puts out the mean of the states of its concat.

Dropout is an argument of `forward`: masks, drawn once by the caller. Without masks nothing is
dropped, whatever the module's mode. So two passes with the same masks are the same function, which
the second-order gradient needs: it subtracts two passes that differ by 1e-2 in their weights.
Source: paper, sections 2.1, 3.2.2 and A.1.2.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.types import Device

from darts_lib.bilevel import Tensors
from darts_lib.recurrent.fused import FusedSearchCell
from darts_lib.recurrent.genotype import RecurrentGenotype
from darts_lib.recurrent.relaxation import FUNCTIONS, SPREAD, GatedCell, Mask, highway, masked
from darts_lib.recurrent.search_space import NODES


class DerivedCell(GatedCell):
    """The cell of a genotype: node i has one source p and one activation f. Paper, section 3.1.2.

    [c, h] = (s_p * m_h) W_i        s_i = s_p + sigmoid(c) (f(h) - s_p)
    """

    def __init__(self, width: int, genotype: RecurrentGenotype) -> None:
        super().__init__(width, genotype.nodes)
        self.genotype = genotype

    def forward(
        self, inputs: Tensor, hidden: Tensor, input_mask: Mask = None, hidden_mask: Mask = None
    ) -> tuple[Tensor, Tensor]:
        """Step through time; shapes as `SearchCell.forward`.

        The input half of W_0 is applied to all steps in one product.
        """
        from_input, from_hidden = self._W0.chunk(2)
        outputs = []
        for x in (masked(inputs, input_mask) @ from_input).unbind():
            product = torch.addmm(x, masked(hidden, hidden_mask), from_hidden)
            states = [highway(hidden, product, torch.tanh)]
            for (name, source), matrix in zip(self.genotype.recurrent, self._Ws, strict=True):
                product = masked(states[source], hidden_mask) @ matrix
                states.append(highway(states[source], product, FUNCTIONS[name]))
            hidden = torch.stack([states[i] for i in self.genotype.concat]).mean(dim=0)
            outputs.append(hidden)
        return torch.stack(outputs), hidden


@dataclass(frozen=True)
class Dropout:
    """Probabilities of dropping, each from 0 to below 1. The defaults are those of the search.

    `words` drops whole words of the vocabulary; `embedding` and `output` features of what enters
    and leaves the recurrent layer; `cell_input` and `hidden` those of what its matrices multiply.
    """

    words: float = 0.0
    embedding: float = 0.2
    cell_input: float = 0.75
    hidden: float = 0.25
    output: float = 0.75


class Masks:
    """Dropout masks of one forward pass, the same at every step of time; 0 or 1 / keep.

    `words` is `(vocabulary, 1)`, the others `(batch, width)`; a probability of 0 gives None. The
    tensors stay where they are when masks are drawn anew, so that a recorded step can read them.
    """

    words: Mask
    embedding: Mask
    cell_input: Mask
    hidden: Mask
    output: Mask

    def __init__(
        self, dropout: Dropout, batch: int, width: int, vocabulary: int, device: Device = "cpu"
    ) -> None:
        self.dropout = dropout
        for name, probability in vars(dropout).items():
            if not 0 <= probability < 1:
                raise ValueError(f"dropout {name}={probability} must be from 0 to below 1.")
            shape = (vocabulary, 1) if name == "words" else (batch, width)
            setattr(self, name, torch.ones(shape, device=device) if probability else None)

    def draw(self, generator: torch.Generator | None = None) -> "Masks":
        """Draw all masks anew, in place, and return them."""
        for name, probability in vars(self.dropout).items():
            if probability:
                mask = getattr(self, name)
                mask.bernoulli_(1 - probability, generator=generator).div_(1 - probability)
        return self


NO_MASKS = Masks(Dropout(0.0, 0.0, 0.0, 0.0, 0.0), 1, 1, 1)
"""Nothing is dropped: for evaluation."""


class Output(NamedTuple):
    """What one pass gives: logits `(time, batch, vocabulary)`, the cell's outputs, the last state.

    `outputs` and, masked, `dropped` are `(time, batch, width)`, `hidden` is `(batch, width)`.
    """

    logits: Tensor
    outputs: Tensor
    dropped: Tensor
    hidden: Tensor


class LanguageModel(nn.Module):
    """Predicts the next word. Names of weights are the original's.

    Embedding and hidden state have one width, since both are the same matrix.
    """

    def __init__(self, cell: GatedCell, vocabulary: int) -> None:
        super().__init__()
        self.width, self.vocabulary = cell.width, vocabulary
        self.encoder = nn.Embedding(vocabulary, cell.width)
        self.rnns = nn.ModuleList([cell])
        self.decoder = nn.Linear(cell.width, vocabulary)
        nn.init.uniform_(self.encoder.weight, -SPREAD, SPREAD)
        nn.init.zeros_(self.decoder.bias)
        self.decoder.weight = self.encoder.weight

    def first_hidden(self, batch: int) -> Tensor:
        """Return the hidden state before the first word: zeros `(batch, width)`."""
        return self.encoder.weight.new_zeros(batch, self.width)

    def masks(self, dropout: Dropout, batch: int) -> Masks:
        """Return the masks of a batch, still to be drawn."""
        return Masks(dropout, batch, self.width, self.vocabulary, self.encoder.weight.device)

    def forward(
        self,
        tokens: Tensor,
        hidden: Tensor,
        masks: Masks = NO_MASKS,
        weights: Tensors | None = None,
    ) -> Output:
        """Run over tokens `(time, batch)` from the hidden state `(batch, width)`.

        `weights`, those of `mix`, are for the relaxed cell alone.
        """
        embedded = self.encoder(tokens)
        if masks.words is not None:
            embedded = embedded * masks.words[tokens]
        embedded = masked(embedded, masks.embedding)
        relaxed = () if weights is None else (weights,)
        outputs, last = self.rnns[0](embedded, hidden, *relaxed, masks.cell_input, masks.hidden)
        dropped = masked(outputs, masks.output)
        return Output(self.decoder(dropped), outputs, dropped, last)


def supernet(width: int, vocabulary: int, nodes: int = NODES) -> LanguageModel:
    """Return the language model of the search: 4,810,000 weights at width 300, 10,000 words."""
    return LanguageModel(FusedSearchCell(width, nodes), vocabulary)


def derived_network(genotype: RecurrentGenotype, width: int, vocabulary: int) -> LanguageModel:
    """Return the untrained language model of a genotype: 22,960,000 weights at 850 and 10,000."""
    return LanguageModel(DerivedCell(width, genotype), vocabulary)
