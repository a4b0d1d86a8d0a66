"""A run of the engine that costs nothing: a linear model on random numbers, weighted by alphas."""

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from same_bits import bits
from torch import Tensor, nn
from torch.nn import functional as F

from darts_lib.engine.files import unpack
from darts_lib.engine.folder import Row
from darts_lib.engine.optimisers import cosine, momentum_sgd
from darts_lib.engine.run import Batch, Result, Run, run_in_folder
from darts_lib.engine.settings import RunConfig
from darts_lib.genotype import PUBLISHED, Genotype

CELL = PUBLISHED["DARTS_V2"]


class ToyConfig(RunConfig):
    KIND = "toy"
    LAPTOP = {"dataset": "digits", "epochs": 4, "max_steps": 3}
    learning_rate: float = 0.1


class ToyRun(Run):
    """Its checkpoint has 80 KB; its steps draw from torch's own generator and from the epoch's."""

    CONFIG = ToyConfig
    PRINTED = ("train_loss",)
    LESS_MEMORY = "a smaller batch_size"

    def __init__(self, config: ToyConfig, folder: object = "the run folder") -> None:
        super().__init__(config, folder)
        self.net = nn.Linear(100, 100)
        self.alphas = {"normal": torch.zeros(2, 8, requires_grad=True)}
        self.optimiser = momentum_sgd(self.net.parameters(), self.rate, 0.9, 1e-3)
        self.alpha_optimiser = torch.optim.Adam(self.alphas.values(), 0.1, fused=True)

    def batches(self, generator: torch.Generator) -> Generator[tuple[Batch, ...]]:
        for _ in range(self.steps()):
            yield ((torch.randn(self.config.batch_size, 100, generator=generator),),)

    def step(self, batch: Batch) -> Tensor:
        (normal,) = self.alphas.values()
        outputs = self.net(F.dropout(batch[0], 0.1))
        loss = outputs.square().mean() * normal.softmax(-1)[:, 0].sum()
        of_normal, *of_weights = torch.autograd.grad(loss, [normal, *self.net.parameters()])
        self.descend(self.alpha_optimiser, loss, [of_normal])
        self.descend(self.optimiser, loss, of_weights, clip=5.0)
        return torch.stack([loss.detach(), torch.ones(())])

    def begin(self, epoch: int, generator: torch.Generator) -> Row:
        rate = cosine(epoch, self.config.epochs, self.config.learning_rate, 0.0)
        self.rate.fill_(rate)
        return {"learning_rate": rate}

    def figures(self, split: str, sums: Sequence[float]) -> Row:
        return {f"{split}_loss": sums[0] / sums[1]}

    def end(self) -> Row:
        return {"genotype": CELL.to_dict()}

    def data_line(self, steps: str) -> str:
        return f"random numbers, {steps} an epoch"

    def steps(self) -> int:
        return int(self.config.max_steps)

    def advice(self) -> list[str]:
        return ["toys learn nothing"]

    def warnings(self, history: Sequence[Row]) -> list[str]:
        return [f"nothing was learnt in {len(history)} epochs"]

    def result(self, history: Sequence[Row]) -> Row:
        return {"genotype": CELL.to_dict(), "loss": history[-1]["train_loss"]}


def toy_config(path: object = "", **given: object) -> ToyConfig:
    return ToyConfig.create(**{"scale": "laptop", "device": "cpu", "run_dir": str(path), **given})


def toy(config: ToyConfig, after: Callable[[int], object] = lambda epoch: None) -> Result[Genotype]:
    """Make a toy run, go on with it or read it back; call `after` with the number of each epoch."""
    return run_in_folder(config, ToyRun, Genotype, lambda row: after(row["epoch"]))


def end(path: Path) -> Any:
    """Return the bits of the state in the newest checkpoint."""
    return bits(unpack(path / "checkpoint.pt")["state"])


@contextlib.contextmanager
def held_elsewhere(enter: Callable[[], AbstractContextManager[Any]]) -> Iterator[BaseProcess]:
    """Give another process, which is inside what `enter` opens until it is killed."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()

    def hold() -> None:
        with enter():
            ready.set()
            signal.pause()

    process = context.Process(target=hold, daemon=True)
    process.start()
    try:
        assert ready.wait(60)
        yield process
    finally:
        process.kill()
        process.join(60)


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the library catches it."""


def kill_after(last: int) -> Callable[[int], None]:
    def after(epoch: int) -> None:
        if epoch == last:
            raise Killed

    return after


def killed(path: Path, last: int) -> ToyConfig:
    """Leave a toy run that was killed after epoch `last`; return its configuration."""
    config = toy_config(path)
    with pytest.raises(Killed):
        toy(config, kill_after(last))
    return config
