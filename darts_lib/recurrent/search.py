"""Searching recurrent cells: Algorithm 1 on text.

One turn of it takes a segment of the training text and one of the validation text. The alphas step
on the validation loss, then the weights on the same training segment, with

    L_train  +  ar mean(dropped^2)  +  tar mean((h_t - h_{t-1})^2)

whose last two terms are the weights' alone. Every pass over a segment sees the same masks. The
hidden state at the end of a segment is the next one's first, cut from its graph.
"""

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from darts_lib.bilevel import InnerStep, Loss, architecture_gradient, gradients, held
from darts_lib.cost import advice
from darts_lib.cost.complexity import count_parameters
from darts_lib.data.text import (
    SPLITS,
    Corpus,
    Segment,
    batchify,
    inputs_and_targets,
    load_text,
    segments,
)
from darts_lib.engine.folder import Row, read_alphas
from darts_lib.engine.progress import live
from darts_lib.engine.run import UNNAMED, OnEpoch, Result, Run, run_in_folder
from darts_lib.engine.settings import RunConfig
from darts_lib.recurrent.genotype import RecurrentGenotype, derive
from darts_lib.recurrent.network import LanguageModel, Masks, Output, supernet
from darts_lib.recurrent.relaxation import initial_alphas
from darts_lib.recurrent.search_space import KIND, NODES
from darts_lib.recurrent.settings import TextConfig
from darts_lib.relaxation import entropy, mix
from darts_lib.variants.settings import RouteSettings

Words = tuple[Tensor, Tensor]
"""The words of a segment and the words that follow them, both `(time, batch)`."""

RecurrentSearchResult = Result[RecurrentGenotype]
"""A finished search; `alphas` are `(epochs + 1, edges, primitives)`."""


@torch.no_grad()
def evaluate_columns(
    net: LanguageModel,
    columns: Tensor,
    bptt: int,
    weights: Mapping[str, Tensor] | None = None,
    limit: int | None = None,
) -> Tensor:
    """Return (summed cross-entropy, words) over columns `(rows, batch)`, without dropout.

    The hidden state goes on from segment to segment; `limit` ends after so many.
    """
    hidden = net.first_hidden(columns.shape[1])
    total = torch.zeros(2, device=columns.device)
    for segment in segments(len(columns), bptt)[:limit]:
        tokens, targets = inputs_and_targets(columns, segment)
        out = net(tokens, hidden, weights=weights)
        hidden = out.hidden
        total += summed(cross_entropy(out, targets), targets)
    return total


def cross_entropy(out: Output, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy (nats) a word; its exponential is the perplexity."""
    return nn.functional.cross_entropy(out.logits.flatten(0, 1), targets.flatten())


def activation_terms(out: Output, ar: float, tar: float) -> Tensor:
    """Return the penalty on large and on quickly changing hidden states (Merity et al., 2017)."""
    loss = ar * out.dropped.square().mean()
    if len(out.outputs) > 1:  # one word has no change
        loss = loss + tar * (out.outputs[1:] - out.outputs[:-1]).square().mean()
    return loss


def summed(entropy: Tensor, targets: Tensor) -> Tensor:
    """Return (summed cross-entropy, words): segments of different lengths are weighted rightly."""
    entropy = entropy.detach()
    words = torch.full_like(entropy, targets.numel())  # made on the device, nothing is sent there
    return torch.stack([entropy * words, words])


def figures(split: str, sums: Sequence[float]) -> Row:
    """Return loss (nats a word) and perplexity from (summed cross-entropy, words)."""
    loss, count = sums
    return {f"{split}_loss": loss / count, f"{split}_perplexity": perplexity(loss / count)}


def perplexity(loss: float) -> float:
    """Return exp(loss): among how many equally likely words the model is undecided."""
    return math.exp(loss) if loss < 700 else math.inf


class TextRun(Run):
    """What searching and retraining share: text, network, hidden state, a step of the weights."""

    LESS_MEMORY = "a smaller batch_size, width or bptt"
    figures = staticmethod(figures)
    config: TextConfig
    net: LanguageModel
    train: Tensor
    build: Callable[[int], LanguageModel]
    """Returns the untrained network for so many words."""

    def __init__(
        self, config: TextConfig, folder: object = UNNAMED, data: Corpus | None = None
    ) -> None:
        """Start a run. `data` is the text, if not the configuration's."""
        super().__init__(config, folder)
        self.corpus = data or load_text(config.dataset, config.data_folder).first(config.max_tokens)
        counts = {split: len(getattr(self.corpus, split)) for split in SPLITS}
        vocabulary = " ".join(self.corpus.words)  # by number, and no word holds a space
        self.description = {"dataset": config.dataset, "counts": counts, "vocabulary": vocabulary}
        self.train = batchify(self.corpus.train, config.batch_size).to(self.device)
        self.net = self.placed(lambda: self.build(len(self.corpus.words)))
        self.optimiser = torch.optim.SGD(
            self.net.parameters(), self.rate, weight_decay=config.weight_decay, fused=True
        )
        self.train_masks = self.net.masks(config.dropout, config.batch_size)
        self.train_hidden = self.net.first_hidden(config.batch_size)
        self.hidden_states = [self.train_hidden]  # in no checkpoint: an epoch begins with zeros

    def changed(self) -> list[Tensor]:
        """Return every tensor that a step changes in place."""
        return [*super().changed(), *self.hidden_states]

    def steps(self) -> int:
        """Return the number of steps of an epoch; about, where lengths are drawn."""
        return len(segments(len(self.train), self.config.bptt)[: self.config.max_steps or None])

    def begin(self, epoch: int, generator: torch.Generator) -> Row:
        """Begin with hidden states of 0; the rate is set for each segment."""
        torch._foreach_zero_(self.hidden_states)
        self.before = {kind: alpha.detach().clone() for kind, alpha in self.alphas.items()}
        return {"learning_rate": self.config.learning_rate}

    def training_segment(self, segment: Segment, generator: torch.Generator) -> Words:
        """Return a segment of the training text, its share of the rate set and its masks drawn."""
        words = inputs_and_targets(self.train, segment)
        self.rate.fill_(self.config.learning_rate * len(words[0]) / self.config.bptt)
        self.train_masks.draw(generator)
        return words

    def weight_step(self, words: Words, mixed: Mapping[str, Tensor] | None = None) -> Tensor:
        """Take a step of the weights; `mixed` are the weights of a relaxed cell's activations.

        Returns (summed cross-entropy, words) of the training segment, on the device.
        """
        out = self.net(words[0], self.train_hidden, self.train_masks, mixed)
        cost = cross_entropy(out, words[1])
        loss = cost + activation_terms(out, self.config.ar, self.config.tar)
        if mixed is None:  # a node that nothing reads gets no gradient: its matrix stays as it is
            torch.autograd.backward(loss)
            by_weights = None
        else:
            by_weights = gradients(loss, list(self.net.parameters()))
        self.descend(self.optimiser, loss, by_weights, self.config.clip)
        self.train_hidden.copy_(out.hidden.detach())
        return summed(cost, words[1])


class RecurrentSearchConfig(RouteSettings, TextConfig):
    """Settings of a recurrent search. The defaults are the paper's for Penn Treebank (A.1.2).

    The inner step is clipped as the weight step is.
    """

    KIND = "recurrent-search"
    LAPTOP: ClassVar[dict[str, Any]] = {
        "dataset": "topics",
        "width": 32,
        "batch_size": 32,
        "epochs": 4,
        "max_steps": 20,
        "threads": 1,  # on arrays this small a second thread waits more than it works
        # At the paper's 3e-3 and a few dozen steps, the alphas could not move.
        "alpha_learning_rate": 0.03,
        # The paper's 0.75 suits 50 epochs; in a few dozen steps nothing would be learnt.
        "dropout_cell_input": 0.2,
        "dropout_output": 0.2,
    }

    nodes: int = Field(NODES, ge=1, le=100)
    epochs: int = Field(50, ge=1)
    batch_size: int = Field(256, ge=2)
    alpha_learning_rate: float = Field(3e-3, ge=0)
    alpha_weight_decay: float = Field(1e-3, ge=0)


class RecurrentSearch(TextRun):
    """A search between two epochs: supernet, alphas, optimisers, hidden states; and one step.

    The alphas learn from the validation text, as in the original; the test text is never read.
    """

    CONFIG = RecurrentSearchConfig
    PRINTED = (
        *("train_perplexity", "valid_perplexity", "entropy_recurrent"),
        *("alpha_change", "seconds"),
    )
    config: RecurrentSearchConfig

    def __init__(
        self, config: RecurrentSearchConfig, folder: object = UNNAMED, data: Corpus | None = None
    ) -> None:
        super().__init__(config, folder, data)
        self.valid = batchify(self.corpus.valid, config.batch_size).to(self.device)
        self.weights = dict(self.net.named_parameters())
        self.alphas = initial_alphas(config.nodes, config.seed, self.device)
        rate, decay, graph = config.alpha_learning_rate, config.alpha_weight_decay, self.fast.graph
        self.alpha_optimiser = torch.optim.Adam(
            self.alphas.values(), rate, weight_decay=decay, fused=True, capturable=graph
        )
        self.valid_masks = self.net.masks(config.dropout, config.batch_size)
        self.valid_hidden = self.net.first_hidden(config.batch_size)
        self.hidden_states.append(self.valid_hidden)

    def build(self, words: int) -> LanguageModel:
        """Return the supernet for so many words."""
        return supernet(self.config.width, words, self.config.nodes)

    # Algorithm 1 ---------------------------------------------------------------------------------

    def take(self, *batches: Words) -> Tensor:
        """Take a step, from its recording where the segments have the usual length."""
        usual = all(len(tokens) == self.config.bptt for tokens, _ in batches)
        return (self.recorded if usual else self.step)(*batches)

    def step(self, train: Words, valid: Words) -> Tensor:
        """Take one step of the alphas, then `weight_step` on the same training segment."""
        ends = [self.valid_hidden]
        train_loss = self.loss(train, self.train_hidden, self.train_masks)
        valid_loss = self.loss(valid, self.valid_hidden, self.valid_masks, ends)
        inner, route = self.inner_step(self.rate), self.config.chosen_route
        gradient = architecture_gradient(
            train_loss, valid_loss, self.weights, self.alphas, inner, route
        )
        self.valid_hidden.copy_(ends[-1])
        self.descend(self.alpha_optimiser, gradient.valid_loss, list(gradient.total.values()))

        return self.weight_step(train, mix(held(self.alphas)))

    def inner_step(self, learning_rate: float | Tensor) -> InnerStep:
        """Return the step that stands for the inner optimum: the weight step, clip and all.

        The clip's coefficient min(1, clip / norm) is a constant to the gradient. The original code
        does not cap it at 1, and clips the vector of the Hessian product too; both are left out.
        """
        return InnerStep(learning_rate, 0.0, self.config.weight_decay, clip=self.config.clip)

    def loss(
        self, words: Words, hidden: Tensor, masks: Masks, ends: list[Tensor] | None = None
    ) -> Loss:
        """Return the loss of a segment as a function of weights and alphas, for `bilevel`.

        Every call sees the same masks. The last hidden state of each is appended to `ends`.
        """

        def loss(weights: Mapping[str, Tensor], alphas: Mapping[str, Tensor]) -> Tensor:
            arguments = (words[0], hidden, masks, mix(alphas))
            out: Output = functional_call(self.net, dict(weights), arguments)
            if ends is not None:
                ends.append(out.hidden.detach())
            return cross_entropy(out, words[1])

        return loss

    # An epoch ------------------------------------------------------------------------------------

    def batches(self, generator: torch.Generator) -> Generator[tuple[Words, Words]]:
        """Yield (training, validation) segments of one length, their masks and rate set.

        The validation text is read from its start again when too little of it is left for a
        segment; its hidden state is then 0 again too.
        """
        config, order = self.config, torch.Generator().manual_seed(generator.initial_seed())
        cut = segments(len(self.train), config.bptt, order)
        place = 0
        for start, length in live(cut[: config.max_steps or None]):
            if place + length > len(self.valid) - 1:
                place = 0
                self.valid_hidden.zero_()
            train = self.training_segment((start, length), generator)
            valid = inputs_and_targets(self.valid, (place, min(length, len(self.valid) - 1)))
            place += length
            self.valid_masks.draw(generator)
            yield train, valid

    def end(self) -> Row:
        """Return the supernet's figures on the validation text, and what the alphas have become."""
        moved = self.alphas[KIND].detach() - self.before[KIND]
        return figures("valid", self.evaluate().tolist()) | {
            "entropy_recurrent": entropy(mix(held(self.alphas))[KIND]),
            "alpha_change": float(moved.norm()),
            "genotype": derive(self.alphas).to_dict(),
        }

    def evaluate(self) -> Tensor:
        """Return (summed cross-entropy, words) of the supernet on the validation text.

        The batch is the search's: another size, with other statistics, would be another function.
        """
        config, weights = self.config, mix(held(self.alphas))
        limit = config.max_steps or None
        return evaluate_columns(self.net, self.valid, config.bptt, weights, limit)

    # What is said of it --------------------------------------------------------------------------

    def data_line(self, steps: str) -> str:
        """Say what weights and alphas learn from."""
        return (
            f"{self.train.numel():,} words for the weights, {self.valid.numel():,} for the alphas, "
            f"vocabulary of {self.net.vocabulary:,}, {steps} an epoch on {self.device}"
        )

    def advice(self) -> list[str]:
        """Return what looks wrong before the first step."""
        return advice.ignored_order(self.config)

    def warnings(self, history: Sequence[Row]) -> list[str]:
        """Say what looks wrong in a history: frozen alphas, a loss at that of guessing."""
        return advice.after_search(history, self.net.vocabulary, "text")

    def result(self, history: Sequence[Row]) -> Row:
        """Return the final figures."""
        return {
            "genotype": history[-1]["genotype"],
            "route": self.config.chosen_route,
            "parameters": count_parameters(self.net),
            "supernet_valid_perplexity": history[-1]["valid_perplexity"],
        }


def search(config: RecurrentSearchConfig, on_epoch: OnEpoch = None) -> RecurrentSearchResult:
    """Search as `darts_lib.search.search` does, on text."""
    return run_in_folder(config, RecurrentSearch, RecurrentGenotype, on_epoch)


def read_search(path: Path) -> RecurrentSearchResult:
    """Read a search folder: the genotype after its last finished epoch, history and alphas."""
    read_alphas(path)  # refuses a folder that is not a search's
    return Result.read(path, RecurrentGenotype)


def load_search(path: Path, config: RunConfig | None = None) -> RecurrentSearch:
    """Rebuild a search as it stood after its last finished epoch; see `Run.loaded`."""
    return RecurrentSearch.loaded(path, config, "run chapter 06's search there first.")
