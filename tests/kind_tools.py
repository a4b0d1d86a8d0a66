"""The five kinds of run, each as small as it can be, and what their folders hold at the end."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from same_bits import bits, digest
from torch import Tensor

from darts_lib import transfer
from darts_lib.engine.files import unpack
from darts_lib.engine.folder import read_history, read_json
from darts_lib.engine.run import Result, Run
from darts_lib.engine.settings import RunConfig
from darts_lib.recurrent.retrain import RecurrentRetraining
from darts_lib.recurrent.retrain import retrain as recurrent_retrain
from darts_lib.recurrent.search import RecurrentSearch
from darts_lib.recurrent.search import search as recurrent_search
from darts_lib.retrain import Retraining, retrain
from darts_lib.search import Search, search
from darts_lib.transfer import ImageNetRetraining

CELL = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1)], normal_concat=[2], "
    "reduce=[('max_pool_3x3', 0), ('dil_conv_3x3', 1)], reduce_concat=[2])"
)
SHORT: dict[str, Any] = {"scale": "laptop", "max_steps": 2, "epochs": 3, "batch_size": 8}
SEARCH = {**SHORT, "channels": 2, "layers": 1, "nodes": 1}
RETRAIN = {**SHORT, "channels": 4, "layers": 2, "genotype": CELL, "drop_path": 0.3}
IMAGENET = {**RETRAIN, "batch_size": 4}
WORDS = {**SHORT, "dataset": "folder", "width": 6, "batch_size": 4, "bptt": 5}
STALLING = {**WORDS, "epochs": 5, "patience": 1, "valid_batch_size": 2, "learning_rate": 30.0}
STALLING |= {"max_steps": 5, "bptt": 8}
"""At so high a rate the loss stalls, and there is an average when epochs are left."""


@dataclass(frozen=True)
class Kind:
    """A kind of run and settings that make it small."""

    run: type[Run]
    go: Callable[..., Result[Any]]
    given: dict[str, Any]

    @property
    def config(self) -> type[RunConfig]:
        return self.run.CONFIG

    def settings(self, path: Path | str = "", **given: Any) -> RunConfig:
        """Return the settings of a run in the folder `path`."""
        return self.config.create(**{**self.given, "run_dir": str(path), **given})

    def start(self, **given: Any) -> tuple[Any, tuple[Any, ...]]:
        """Return a run before its first step, and what that step is given."""
        run: Any = self.run(self.settings(**given))
        return run, next(run.batches(torch.Generator().manual_seed(0)))


KINDS = {
    "search": Kind(Search, search, SEARCH),
    "retraining": Kind(Retraining, retrain, RETRAIN),
    "ImageNet retraining": Kind(ImageNetRetraining, transfer.retrain, IMAGENET),
    "recurrent search": Kind(RecurrentSearch, recurrent_search, {**WORDS, "nodes": 2}),
    "recurrent retraining": Kind(RecurrentRetraining, recurrent_retrain, STALLING),
}


def stop_after(last: int) -> Callable[[dict[str, Any]], None]:
    """Return what ends a run like Ctrl-C when its epoch `last` is saved."""

    def on_epoch(row: dict[str, Any]) -> None:
        if row["epoch"] == last:
            raise KeyboardInterrupt

    return on_epoch


def end_of(path: Path) -> dict[str, Any]:
    """Return all that a run has left, by the names of its files, as digests and without times."""
    readers: dict[str, Callable[[Path], Any]] = {
        ".pt": lambda file: bits(unpack(file)),
        ".jsonl": lambda file: bits(read_history(path)),
        ".json": lambda file: bits(read_json(file)),
    }
    return {file.name: readers.get(file.suffix, digest)(file) for file in path.iterdir()}


def values(run: Run) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in run.changed()]


def write_text(root: Path) -> Path:
    """Write a text in which each word follows from the one before it; return its folder."""
    generator = torch.Generator().manual_seed(0)
    for split, lines in (("train", 200), ("valid", 20), ("test", 20)):
        rows = []
        for _ in range(lines):
            start = int(torch.randint(9, (), generator=generator))
            rows.append(" ".join(f"w{(start + 2 * i) % 9}" for i in range(7)))
        (root / f"{split}.txt").write_text("\n".join(rows) + "\n")
    return root
