"""The loop over epochs that every run shares: go on where it was, save, print, report."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from darts_lib.progress import EpochLine
from darts_lib.run_files import Row
from darts_lib.runs import Progress, RunFolder
from darts_lib.training import Restorable, restore


class Run(Restorable, Protocol):
    """A search or a retraining between two epochs."""

    def epoch(self, epoch: int) -> Row:
        """Run epoch number `epoch`, from 0, and return its row of the history."""

    def state(self) -> dict[str, Any]:
        """Return all that the next epoch depends on."""


def run_epochs(
    run: Run,
    folder: RunFolder,
    epochs: int,
    printed: Sequence[str],
    on_epoch: Callable[[Row], None] | None = None,
    alphas: Mapping[str, Tensor] | None = None,
) -> Progress:
    """Run the epochs that are still to do, each into the folder, and return all there is.

    `printed` names the figures of a row that its line shows. A search gives its `alphas`, which
    are recorded before the first epoch and after each. `on_epoch` is called with each new row.
    """
    progress, stored = Progress(), folder.load()
    if stored:
        restore(run, stored[0], folder.path)
        progress = stored[1]
    elif alphas:
        progress.record_alphas(alphas)
    line = EpochLine(epochs, progress.epochs)
    while progress.epochs < epochs:
        row = run.epoch(progress.epochs)
        progress.history.append(row)
        if alphas:
            progress.record_alphas(alphas)
        folder.save(run.state(), progress)
        line({name: row[name] for name in printed})
        if on_epoch:
            on_epoch(row)
    return progress
