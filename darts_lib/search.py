"""The search: Algorithm 1 of the paper, whole.

    while not converged:
        1. a = a - lr_a grad_a L_val(w - xi grad_w L_train(w, a), a)        the alphas
        2. w = w - lr grad_w L_train(w, a)                                  the weights

`Search.step` is one turn of it; `plain.py` has it as the original takes it. Paper, section 2.3.
"""

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from darts_lib.bilevel import InnerStep, Loss, Tensors, architecture_gradient, gradients, held
from darts_lib.cost import advice
from darts_lib.cost.complexity import count_parameters
from darts_lib.cost.expected_cost import edge_costs, expected_cost
from darts_lib.data.description import PictureData
from darts_lib.data.images import (
    Batch,
    ImageSet,
    a_class,
    augmented_batch,
    check_half,
    clean_batch,
    figures,
    halves,
    load_splits,
    sums,
)
from darts_lib.data.picture_folder import fingerprint
from darts_lib.derivation import derive
from darts_lib.engine.batches import epoch_batches
from darts_lib.engine.command_line import run_from_file
from darts_lib.engine.folder import Row, read_alphas
from darts_lib.engine.optimisers import cosine, momentum_sgd
from darts_lib.engine.progress import live
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.run import UNNAMED, OnEpoch, Result, Run, run_in_folder
from darts_lib.engine.settings import RunConfig
from darts_lib.fast.fused import FusedSupernet
from darts_lib.genotype import Genotype
from darts_lib.kernels.precision import as_autocast
from darts_lib.relaxation import Supernet, entropy, initial_alphas
from darts_lib.search_space import KINDS, allowed
from darts_lib.variants import METHODS
from darts_lib.variants.settings import MethodSettings

Draw = tuple[Tensor, ...]
"""What a method draws for a step, a tensor for each kind of cell; empty for most methods."""

Halves = tuple[ImageSet, ImageSet]
"""The images for the weights, and those for the alphas."""

SearchResult = Result[Genotype]
"""A finished search; `alphas` are `(epochs + 1, edges, primitives)` by kind of cell."""


class SearchConfig(MethodSettings, RunConfig):
    """Settings of a search. The defaults are the paper's CIFAR-10 search (A.1.1).

    Which space is searched by which method is in `MethodSettings`. `max_skip` limits the normal
    cell's skip connections; -1 is no limit. `max_steps` ends every epoch after so many steps, and
    `max_images` takes only the first training images; 0 is all. `recompute` holds less memory and
    takes more time: each cell is computed again in the backward pass. `madds_weight` adds so much
    loss for each million of the cells' expected multiply-adds, in search of cheaper ones.
    """

    KIND = "search"
    NO_EFFECT_ON_RESULT = RunConfig.NO_EFFECT_ON_RESULT | {"recompute"}
    NAMED_WHERE_CHANGED = RunConfig.NAMED_WHERE_CHANGED | set(MethodSettings.__annotations__)
    LAPTOP: ClassVar[dict[str, Any]] = {
        "dataset": "digits",
        "channels": 4,
        "layers": 3,
        "epochs": 4,
        "threads": 1,  # on arrays this small a second thread waits more than it works
        # At the paper's 3e-4 and a dozen steps an epoch, the alphas could not move.
        "alpha_learning_rate": 0.05,
    }

    channels: int = Field(16, ge=2, le=10_000)
    layers: int = Field(8, ge=1, le=1000)
    nodes: int = Field(4, ge=1, le=100)
    learning_rate: float = Field(0.025, gt=0)
    final_learning_rate: float = Field(0.001, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(3e-4, ge=0)
    gradient_clip: float = Field(5.0, gt=0)
    alpha_learning_rate: float = Field(3e-4, ge=0)
    alpha_weight_decay: float = Field(1e-3, ge=0)
    cutout: int = Field(0, ge=0)
    max_skip: int = Field(-1, ge=-1)
    recompute: bool = False
    madds_weight: float = Field(0, ge=0)

    def fingerprint(self) -> Row:
        """Return that of one's own pictures, without those of the test: no search reads them."""
        return fingerprint(self, unused="test")

    @model_validator(mode="after")
    def _check_edges(self) -> Self:
        allowed(self.edge_primitives, self.primitives, self.nodes)  # refuses what is no cell
        if self.recompute and self.supernet != "fused":
            raise ValueError(f"recompute=True is for supernet='fused', not {self.supernet!r}")
        return self


class Search(Run):
    """A search between two epochs: supernet, alphas and their optimisers, and one step of both."""

    CONFIG = SearchConfig
    PRINTED = (
        *("train_loss", "valid_loss", "valid_accuracy"),
        *("entropy_normal", "alpha_change", "skips", "seconds"),
    )
    LESS_MEMORY = "recompute, or a smaller batch_size, channels, layers or nodes"
    figures = staticmethod(figures)
    config: SearchConfig
    net: Supernet
    train: ImageSet

    def __init__(
        self, config: SearchConfig, folder: object = UNNAMED, data: Halves | None = None
    ) -> None:
        """Start a search. `data` are the halves, if not the configuration's."""
        super().__init__(config, folder)
        if self.ranks.count > 1 and not config.capturable:
            raise SettingsError(
                f"route={config.chosen_route!r} is for one process, not {self.ranks.count}: it "
                "differentiates a gradient that the ranks would first have to share; use order=2."
            )
        self.train, self.valid = (half.to(self.device) for half in data or self._halves())
        self.description = PictureData.row(self.train)
        self.method = METHODS[config.method]
        shape = (config.channels, config.layers, config.nodes)
        form = (*shape, len(self.train.classes), self.train.channels, config.primitives)
        self.net = self.placed(lambda: self.method.supernets[config.supernet](*form))
        if isinstance(self.net, FusedSupernet):
            self.net.recompute = config.recompute
        self.fast.compiled(self.net.cells)
        self.weights = dict(self.net.named_parameters())
        self.alphas = initial_alphas(config.nodes, config.primitives, config.seed, self.device)
        masks = allowed(config.edge_primitives, config.primitives, config.nodes)
        self.allowed = {kind: mask.to(self.device) for kind, mask in masks.items()}
        counts = edge_costs(*shape, self.train.size, config.primitives)
        self.costs = {kind: (count / 1e6).float().to(self.device) for kind, count in counts.items()}
        self.optimiser = momentum_sgd(
            self.weights.values(), self.rate, config.momentum, config.weight_decay
        )
        rate, decay = config.alpha_learning_rate, config.alpha_weight_decay
        options = {"fused": True, "capturable": self.fast.graph}
        self.alpha_optimiser = torch.optim.Adam(
            self.alphas.values(), rate, (0.5, 0.999), weight_decay=decay, **options
        )
        self._recorded_sums = self.fast.recorded(self._sums, list)  # it changes no tensor

    def _halves(self) -> Halves:
        config = self.config
        folder, size = config.data_folder, config.image_size
        splits = load_splits(config.dataset, folder, size, config.max_images)
        train, valid = splits["train"], splits.get("valid")
        check_half(config.batch_size, len(train), 0 if valid is None else len(valid))
        return halves(train, valid)

    # Algorithm 1 ---------------------------------------------------------------------------------

    def step(self, train: Batch, valid: Batch, draw: Draw = ()) -> Tensor:
        """Take one step of the alphas, then one of the weights on the same training batch.

        Returns (summed loss, correct, count) of the training batch, on the device. Nothing in it
        waits for the device, so that a GPU is never idle and a CUDA graph can hold all of it.
        """
        with self.fast.autocast():
            # 1. The alphas, on the validation batch.
            losses = self.loss(train, draw), self.valid_loss(valid, draw)
            inner, route = self.inner_step(self.rate), self.config.chosen_route
            gradient = architecture_gradient(
                *losses, self.weights, self.alphas, inner, route, mean=self.ranks.mean
            )
            total = list(gradient.total.values())
            self.descend(self.alpha_optimiser, gradient.valid_loss, total)

            # 2. The weights, on the training batch.
            logits = self.logits(self.weights, train[0], held(self.alphas), draw)
            loss = F.cross_entropy(logits, train[1])
            by_weights = self.ranks.mean(gradients(loss, list(self.weights.values())))
            self.descend(self.optimiser, loss, by_weights, self.config.gradient_clip)
        return sums(logits.detach().float(), train[1])

    def inner_step(self, learning_rate: float | Tensor) -> InnerStep:
        """Return the step that stands for the inner optimum: the weight step without its clip."""
        state = self.optimiser.state
        buffers = {name: state[w]["momentum_buffer"] for name, w in self.weights.items()}
        return InnerStep(learning_rate, self.config.momentum, self.config.weight_decay, buffers)

    def loss(self, batch: Batch, draw: Draw = ()) -> Loss:
        """Return the loss of a batch as a function of weights and alphas, for `bilevel`."""
        images, labels = batch
        return lambda weights, alphas: F.cross_entropy(
            self.logits(weights, images, alphas, draw), labels
        )

    def valid_loss(self, batch: Batch, draw: Draw = ()) -> Loss:
        """Return what the alphas descend: the validation loss, and the budget if there is one."""
        loss, weight = self.loss(batch, draw), self.config.madds_weight
        if not weight:
            return loss
        return lambda weights, alphas: loss(weights, alphas) + weight * self.madds(alphas)

    def logits(self, weights: Tensors, images: Tensor, alphas: Tensors, draw: Draw = ()) -> Tensor:
        """Return what the supernet makes of the images with these weights: `(batch, classes)`."""
        cast = as_autocast(weights)
        self.read = held(cast)  # alive until the next pass: of constants no graph keeps the casts
        mixed = self.mixed(alphas, draw)
        return functional_call(self.net, cast, (images, mixed))

    def mixed(self, alphas: Tensors, draw: Draw = ()) -> dict[str, Tensor]:
        """Return the weights of the operations on each edge, by the method's rule."""
        drawn = dict(zip(alphas, draw, strict=True)) if draw else None
        return self.method.mix(self.admitted(alphas), drawn)

    def admitted(self, alphas: Tensors) -> dict[str, Tensor]:
        """Return the alphas with -inf where an edge may not have an operation."""
        if not self.config.edge_primitives:
            return dict(alphas)
        return {k: a.masked_fill(~self.allowed[k], -torch.inf) for k, a in alphas.items()}

    def madds(self, alphas: Tensors) -> Tensor:
        """Return the expected millions of multiply-adds of all cells' edges, differentiable."""
        return expected_cost(self.admitted(alphas), self.costs, self.method.mix)

    # An epoch ------------------------------------------------------------------------------------

    def batches(self, generator: torch.Generator) -> Generator[tuple[tuple[Tensor, ...], ...]]:
        """Yield (training, validation) batches, and what the method draws for their step.

        The alphas' half is shuffled and used up before it is shuffled anew. Both are augmented,
        as in the original. Every rank draws the same batches and yields its part of them.
        """
        config, order = self.config, torch.Generator().manual_seed(generator.initial_seed())
        valid_batches: list[Tensor] = []
        for indices in live(self._shuffled(self.train, order)[: config.max_steps or None]):
            valid_batches = valid_batches or self._shuffled(self.valid, order)
            train = augmented_batch(self.train, indices, config.cutout, generator)
            valid = augmented_batch(self.valid, valid_batches.pop(), config.cutout, generator)
            batches = self.ranks.part(train), self.ranks.part(valid)
            if self.method.draw is None:
                yield batches
            else:
                yield *batches, tuple(self.method.draw(self.alphas, generator).values())

    def _shuffled(self, images: ImageSet, order: torch.Generator) -> list[Tensor]:
        return self.ranks.shared(epoch_batches(len(images), self.config.batch_size, order))

    def begin(self, epoch: int, generator: torch.Generator) -> Row:
        """Set the learning rate of the weights, a cosine."""
        config = self.config
        rate = cosine(epoch, config.epochs, config.learning_rate, config.final_learning_rate)
        self.rate.fill_(rate)
        self.before = {kind: alpha.detach().clone() for kind, alpha in self.alphas.items()}
        return {"learning_rate": rate}

    def end(self) -> Row:
        """Return the supernet's figures on the alphas' half, and what has become of the alphas."""
        moved = [(self.alphas[kind].detach() - self.before[kind]).square().sum() for kind in KINDS]
        genotype = self.derived()
        with torch.no_grad():
            weights = self.mixed(self.alphas)
            row = self.evaluate() | {f"entropy_{kind}": entropy(weights[kind]) for kind in KINDS}
            row |= {"expected_madds": 1e6 * float(self.madds(self.alphas))}
        row |= {"alpha_change": float(torch.stack(moved).sum().sqrt())}
        return row | {"skips": genotype.skips(), "genotype": genotype.to_dict()}

    def derived(self) -> Genotype:
        """Return the cell that the alphas stand for now."""
        limit = None if self.config.max_skip < 0 else self.config.max_skip
        alphas = self.admitted(self.alphas)
        return derive(alphas, self.config.primitives, limit, self.method.mix)

    @torch.no_grad()
    def evaluate(self) -> Row:
        """Return loss and accuracy of the supernet on clean images of the alphas' half.

        The supernet keeps no running statistics: each batch is normalised by its own. The ranks
        take whole batches in turn, so the figures are those of one rank.
        """
        total = torch.zeros(3, device=self.device)
        batches = epoch_batches(len(self.valid), self.config.batch_size, None)
        for indices in self.ranks.in_turn(batches[: self.config.max_steps or None]):
            # The alphas are given, not taken: a caller may have put others in their place.
            alphas = tuple(self.alphas.values())
            total += self._recorded_sums(clean_batch(self.valid, indices), alphas)
        return figures("valid", self.ranks.sum(total).tolist())

    def _sums(self, batch: Batch, alphas: tuple[Tensor, ...]) -> Tensor:
        with self.fast.autocast():
            given = dict(zip(self.alphas, alphas, strict=True))
            logits = self.logits(self.weights, batch[0], given)
        return sums(logits.float(), batch[1])

    # What is said of it --------------------------------------------------------------------------

    def data_line(self, steps: str) -> str:
        """Say what weights and alphas learn from."""
        balance = a_class(self.train.labels, len(self.train.classes))
        return (
            f"{len(self.train)} images for the weights ({balance}), {len(self.valid)} for the "
            f"alphas, {steps} an epoch on {self.device}, {self.fast}"
        )

    def advice(self) -> list[str]:
        """Return what looks wrong before the first step."""
        config = self.config
        reach = self.steps() * config.epochs, config.alpha_learning_rate
        missing = [kind for kind in KINDS if kind not in self.net.kinds]
        lines = advice.ignored_order(config) + advice.short_reach(*reach)
        lines += advice.large_pictures(max(self.train.size))
        return lines + advice.missing_cells(missing, config.layers)

    def warnings(self, history: Sequence[Row]) -> list[str]:
        """Say what looks wrong in a history: a loss at chance level, collapse, frozen alphas."""
        genotype = Genotype.from_dict(history[-1]["genotype"])
        return advice.after_search(history, len(self.train.classes)) + advice.poor_cell(genotype)

    def result(self, history: Sequence[Row]) -> Row:
        """Return the final figures."""
        return {
            "genotype": history[-1]["genotype"],
            "route": self.config.chosen_route,
            "parameters": count_parameters(self.net),
            "supernet_valid_accuracy": history[-1]["valid_accuracy"],
        }


def search(config: SearchConfig, on_epoch: OnEpoch = None) -> SearchResult:
    """Search, or go on with a search that was stopped, or read a finished one back.

    Raises `SettingsError` for settings or data that cannot be used, and `FloatingPointError` when
    the loss is no longer a number. `on_epoch` is called with the row of each finished epoch.
    """
    return run_in_folder(config, Search, Genotype, on_epoch)


def read_search(path: Path) -> SearchResult:
    """Read a search folder: the genotype after its last finished epoch, history and alphas."""
    read_alphas(path)  # refuses a folder that is not a search's
    return Result.read(path, Genotype)


def load_search(path: Path, config: RunConfig | None = None) -> Search:
    """Rebuild a search as it stood after its last finished epoch; see `Run.loaded`."""
    return Search.loaded(path, config, "run chapter 03's search there first.")


def summary(result: SearchResult) -> str:
    """Say what a search has found, and how to train it."""
    return (
        f"cell: {result.genotype}\n"
        f"its supernet: {result.history[-1]['valid_accuracy']:.1%} of the validation images right\n"
        "next: python -m darts_lib.retrain CONFIG.json, where CONFIG.json holds "
        f'{{"genotype": "{result.path}"}}, or chapter 05 with -p genotype {result.path}'
    )


if __name__ == "__main__":
    run_from_file(SearchConfig, search, summary)
