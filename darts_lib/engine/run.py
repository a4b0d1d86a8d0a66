"""A run: the loop over epochs that every kind shares, its state, and its folder.

    opened folder -> describe -> epoch, checkpoint, line; epoch, checkpoint, line; ... -> result

A kind of run is a subclass in a file of its own. It holds its data and network, and says what a
step, an epoch's batches and its figures are; nothing here knows of cells, images or words.
"""

import contextlib
import copy
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from darts_lib.engine.acceleration import Acceleration, Batch
from darts_lib.engine.batches import epoch_batches, seed_epoch
from darts_lib.engine.devices import check_memory, step_memory, wait
from darts_lib.engine.files import is_there
from darts_lib.engine.folder import (
    Progress,
    Row,
    RunFolder,
    newest_checkpoint,
    read_alphas,
    read_checkpoint,
    read_history,
    read_json,
    way_back,
)
from darts_lib.engine.opening import opened, same_run, stored_config, this_machine
from darts_lib.engine.optimisers import FiniteGuard, Part, laid_out_like, load, stored, tensors_of
from darts_lib.engine.progress import EpochLine, counted, duration
from darts_lib.engine.ranks import Ranks
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.settings import RunConfig

EVERY = 50
"""Steps between two looks at what the guard has noted."""
OnEpoch = Callable[[Row], None] | None
"""What is called with the row of each finished epoch, if anything is."""
Net = TypeVar("Net", bound=nn.Module)
UNNAMED = "the run folder"
"""What messages call the folder of a run that has none."""
COMPILING = (
    "compiling the cells comes first, and again where shapes change: minutes on a GPU, a quarter "
    "of an hour or more on a CPU, without a word (compile='off' starts at once)"
)
NO_MEMORY = ("out of memory", "DefaultCPUAllocator")
"""What torch says, on any device, where memory is not enough."""


class Run:
    """A run between two epochs. A subclass builds `net` and its optimisers, and lists its `parts`.

    The randomness of an epoch depends on its number alone, so a run that was killed goes on to the
    same bits from the state after its last finished epoch.
    """

    CONFIG: type[RunConfig]
    PRINTED: tuple[str, ...]
    """The figures of a row that its line shows."""
    LESS_MEMORY: str
    """What to change where a step does not fit into memory, as words that follow `less with`."""
    KEPT: tuple[str, ...] = ("history.jsonl", "alphas.npz", "genotype.json")
    """The files of a finished run that are made again from its checkpoint where they are gone."""
    figures: Callable[[str, Sequence[float]], Row]
    """Returns the figures of a row from the name of a split and sums such as `step` returns."""

    net: nn.Module
    train: Sized
    optimiser: torch.optim.Optimizer
    alpha_optimiser: torch.optim.Optimizer
    alphas: Mapping[str, Tensor] = {}
    """What a search records before its first epoch and after each; empty for a retraining."""

    def __init__(self, config: Any, folder: object = UNNAMED) -> None:
        self.config, self.folder = config, folder
        self.description: Row = {}  # what it knows of its data, as JSON's values
        self.device, self.ranks = config.open_device(), Ranks.current()
        self.fast = Acceleration.of(config, self.device)
        # A tensor, so that a recorded step follows the schedule.
        self.rate = torch.tensor(config.learning_rate, device=self.device)
        self.guard = FiniteGuard(self.device)
        self.attempt = 0
        self.recorded = self.fast.recorded(self.step, self.changed)
        seed_epoch(config.seed, -1, self.device)

    # What a kind of run says of itself -----------------------------------------------------------

    def parts(self) -> Mapping[str, Part]:
        """Return, by the names in a checkpoint, all that the next epoch of a search depends on."""
        optimisers = {"optimiser": self.optimiser, "alpha_optimiser": self.alpha_optimiser}
        return {"weights": self.net, "alphas": self.alphas, **optimisers}

    def batches(self, generator: torch.Generator) -> Generator[tuple[Batch, ...]]:
        """Yield what each step of an epoch is given; `generator` is the epoch's own."""
        raise NotImplementedError

    def step(self, *batches: Any, **_: Any) -> Tensor:
        """Take a step; return sums over the batch, on the device, without waiting for it."""
        raise NotImplementedError

    def begin(self, epoch: int, generator: torch.Generator) -> Row:
        """Set what an epoch's schedules give; return them for its row, `learning_rate` first."""
        raise NotImplementedError

    def end(self) -> Row:
        """Return what is measured after an epoch's steps."""
        return {}

    def data_line(self, steps: str) -> str:
        """Say what the run learns from; `steps` are an epoch's, in words."""
        raise NotImplementedError

    def network_line(self) -> str:
        """Say how large the network is."""
        weights = sum(weight.numel() for weight in self.net.parameters())
        return f"{'supernet' if self.alphas else 'network'}: {weights:,} weights"

    def steps(self) -> int:
        """Return the number of steps of an epoch, which goes through `train` once."""
        batches = epoch_batches(len(self.train), self.config.batch_size, None)
        return len(batches[: self.config.max_steps or None])

    def advice(self) -> list[str]:
        """Return what looks wrong before the first step."""
        return []

    def warnings(self, history: Sequence[Row]) -> list[str]:
        """Return what looks wrong after the last epoch."""
        return []

    def result(self, history: Sequence[Row]) -> Row:
        """Return the final figures; test images or words are read here and only here."""
        raise NotImplementedError

    def trial_batches(self) -> tuple[Batch, ...]:
        """Return what a usual step is given, for the steps that tell what one costs."""
        generator = seed_epoch(self.config.seed, -1, self.device)
        with contextlib.closing(self.batches(generator)) as batches:
            return next(batches)

    # The epoch -----------------------------------------------------------------------------------

    def epoch(self, epoch: int) -> Row:
        """Run epoch `epoch`, from 0; return its row, or raise FloatingPointError."""
        started = time.perf_counter()
        generator = seed_epoch(self.config.seed, epoch, self.device, self.attempt)
        row: Row = {"epoch": epoch + 1, **self.begin(epoch, generator)}
        self.guard.begin()
        sums: Any = 0
        with contextlib.closing(self.batches(generator)) as batches:
            for number, given in enumerate(batches, 1):
                sums = sums + self.take(*given)
                self.guard.count()
                if number % EVERY == 0:
                    self.guard.check(epoch + 1, row["learning_rate"], self.folder)
        self.guard.check(epoch + 1, row["learning_rate"], self.folder)
        row |= self.figures("train", self.ranks.sum(sums).tolist()) | self.end()
        return row | {"seconds": time.perf_counter() - started}

    def take(self, *batches: Any) -> Tensor:
        """Take a step, from its recording where there is one."""
        return self.recorded(*batches)

    def descend(
        self,
        optimiser: torch.optim.Optimizer,
        loss: Tensor,
        gradients: Sequence[Tensor] | None = None,
        clip: float = math.inf,
    ) -> None:
        """Take an optimiser's step along `gradients`, or along those its variables have already.

        `clip` limits their norm. One that is no number is left out, and told by the guard. What is
        frozen stays as it is: an optimiser leaves out what has no gradient, decay and all.
        """
        variables = optimiser.param_groups[0]["params"]
        for variable, gradient in zip(variables, gradients or (), strict=gradients is not None):
            free = variable.requires_grad
            variable.grad = laid_out_like(gradient, variable) if free else None
        norm = nn.utils.get_total_norm([v.grad for v in variables if v.grad is not None])
        if math.isfinite(clip):
            nn.utils.clip_grads_with_norm_(variables, clip, norm)
        self.guard.watch(optimiser, loss, norm)
        optimiser.step()

    # State ---------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return all that the next epoch depends on, by name."""
        return {name: stored(part) for name, part in self.parts().items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put a stored state back, bit for bit. Raises SettingsError for another network's."""
        try:
            for name, part in self.parts().items():
                load(part, state[name])
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            first = str(error).partition("\n")[0]
            raise SettingsError(
                f"the checkpoint in {self.folder} is of another network than these settings and "
                f"data make ({first}); give back the data that it was started with, or another "
                "run_dir."
            ) from error

    def changed(self) -> list[Tensor]:
        """Return every tensor that a step changes in place."""
        return [*self.guard.state, *(t for part in self.parts().values() for t in tensors_of(part))]

    # All epochs ----------------------------------------------------------------------------------

    def describe(self) -> None:
        """Print the settings, the data, and what the run will cost, from two steps undone."""
        steps, epochs = self.steps(), self.config.epochs
        print(self.config.line)
        print(self.data_line(counted(steps, "step")))
        if self.fast.compile:
            print(COMPILING, flush=True)
        seconds, size = self.trial()
        print(
            f"{self.network_line()}; a step keeps about {size / 2**20:,.0f} MiB (less with "
            f"{self.LESS_MEMORY}); {'at most' if self.fast.graph else 'about'} "
            f"{duration(seconds * steps * epochs)} for {counted(epochs, 'epoch')}"
            f"{', and compiling on top' if self.fast.compile else ''}"
        )
        for warning in self.advice():
            print(f"warning: {warning}")

    def trial(self) -> tuple[float, int]:
        """Return the (seconds, bytes) of a step: two are taken, and everything is put back.

        The first chooses kernels and shows the memory, the second is timed; neither is recorded.
        """
        state = copy.deepcopy(self.state())
        with self.memory_told("a step", "finished epochs", self.folder):
            given = self.trial_batches()
            with step_memory(self.device, self.changed()) as memory:
                self.step(*given)
            wait(self.device)
            started = time.perf_counter()
            self.step(*given)
            wait(self.device)
        seconds = time.perf_counter() - started
        self.restore(state)
        return seconds, memory.peak

    def run(self, folder: RunFolder, on_epoch: OnEpoch = None) -> None:
        """Make the epochs still to do, giving each row to `on_epoch`; finish the folder."""
        self.describe()
        self.description |= folder.data
        folder = replace(folder, data=self.description)
        if checkpoint := folder.load():
            state, progress = checkpoint
            self.restore(state)
        else:
            progress = Progress()
            progress.record_alphas(self.alphas)
        line = EpochLine(self.config.epochs, progress.epochs)
        while progress.epochs < self.config.epochs:
            done = progress.epochs
            kept = f"{done} finished epochs"
            with self.memory_told(f"a step of epoch {done + 1}", kept, self.folder):
                row = self.epoch(done)
            progress.history.append(row)
            progress.record_alphas(self.alphas)
            folder.save(self.state(), progress)
            line({name: row[name] for name in self.PRINTED})
            if on_epoch:
                on_epoch(row)
        for warning in self.warnings(progress.history):
            print(f"warning: {warning}")
        hours = sum(row["seconds"] for row in progress.history) / 3600
        folder.finish({**self.result(progress.history), "hours": hours})

    @classmethod
    @contextlib.contextmanager
    def memory_told(cls, what: str, kept: str, folder: object) -> Generator[None]:
        """Tell in one line that `what` does not fit into memory; `kept` are epochs in `folder`."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:  # only CUDA has a type of its own for this
            first = str(error).partition("\n")[0]
            if not isinstance(error, MemoryError) and not any(w in str(error) for w in NO_MEMORY):
                raise
            raise SettingsError(
                f"{what} does not fit into memory ({first}); less with {cls.LESS_MEMORY}. "
                f"{kept.capitalize()} are kept in {folder}."
            ) from error

    def placed(self, build: Callable[[], Net]) -> Net:
        """Return the network that `build` makes, on the device, if its memory is there.

        It is first built without any: weights, gradients and a copy for the trial are the least.
        """
        with torch.device("meta"):
            weights = sum(weight.nbytes for weight in build().parameters())
        if self.device.type == "cpu":
            check_memory(3 * weights, "training its weights")
        return build().to(self.device)

    @classmethod
    def loaded(cls, path: Path, config: RunConfig | None = None, missing: str = "") -> Self:
        """Rebuild a run as it stood after its last finished epoch, from its folder alone.

        `config` may give another `data_root` or `device`; `missing` is for where no checkpoint is.
        """
        file = path / "checkpoint.pt"
        if not is_there(file):
            raise SettingsError(f"{path} holds no checkpoint.pt; {missing}")
        stored = stored_config(path, cls.CONFIG, **this_machine(config))
        same_run(path, stored)
        run = cls(stored, path)
        run.restore(read_checkpoint(file)["state"])
        return run

    @classmethod
    def mend(cls, folder: RunFolder, config: Any) -> None:
        """Make the files that are gone from a finished run's folder again, from its checkpoint."""
        gone = [name for name in cls.KEPT if not (folder.path / name).exists()]
        gone = gone if folder.ranks.first else []
        if gone and (content := newest_checkpoint(folder.path)):
            folder.write_derived(Progress(content["history"], content["alphas"]))
            cls.write_weights(folder.path, config, content)
            print(f"{folder.path}: made again from its checkpoint: {', '.join(gone)}.")
        elif gone:
            print(f"{folder.path} has no {', '.join(gone)}{way_back(folder.path)}.")
        folder.ranks.wait()

    @classmethod
    def write_weights(cls, path: Path, config: Any, content: Row) -> None:
        """Write the file of weights that a checkpoint's `content` stands for, if there is one."""


class Cell(Protocol):
    """A genotype of any kind."""

    @classmethod
    def from_dict(cls, values: object) -> Self:
        """Build from JSON's lists."""


AnyCell = TypeVar("AnyCell", bound=Cell)


@dataclass(frozen=True)
class Result(Generic[AnyCell]):
    """A run read from its folder: its cell, a row an epoch, the final figures if it finished."""

    path: Path
    genotype: AnyCell
    history: list[Row]
    figures: Row

    @cached_property
    def alphas(self) -> dict[str, Tensor]:
        """Return a search's alphas by kind, each `(epochs + 1, edges, primitives)`."""
        return read_alphas(self.path)

    @classmethod
    def read(cls, path: Path, cell: type[AnyCell]) -> "Result[AnyCell]":
        """Read a run folder; a search that has not finished has the cell of its last epoch."""
        history, file = read_history(path), path / "result.json"
        figures: Row = read_json(file) if is_there(file) else {}
        if not history:
            raise SettingsError(f"{path} has no finished epoch: run it again.")
        genotype = cell.from_dict({**history[-1], **figures}.get("genotype"))
        return Result(path, genotype, history, figures)


def run_in_folder(
    config: RunConfig, kind: type[Run], cell: type[AnyCell], on_epoch: OnEpoch = None
) -> Result[AnyCell]:
    """Make a run, or go on with one that was stopped, or read it back."""
    with opened(config) as folder:
        if folder.result() is None:
            with kind.memory_told("the start of the run", "finished epochs", folder.path):
                _make(kind, config, folder, on_epoch)
        else:
            kind.mend(folder, config)
            print(f"finished already; read back from {folder.path}")
        return Result.read(folder.path, cell)


def _make(kind: type[Run], config: RunConfig, folder: RunFolder, on_epoch: OnEpoch) -> None:
    run = kind(config, folder.path)
    run.run(folder, on_epoch)
    vars(run).clear()  # it holds its own step: a ring, which memory would wait for
