"""The loop over epochs that every run shares: go on where it was, save, print, report."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from darts_lib.engine.folder import Progress, RunFolder
from darts_lib.engine.optimisers import Restorable, restore
from darts_lib.engine.progress import EpochLine
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.run_files import Row

NO_MEMORY = ("out of memory", "DefaultCPUAllocator")
"""What torch says, on any device, where memory is not enough."""


class Run(Restorable, Protocol):
    """A search or a retraining between two epochs."""

    LESS_MEMORY: str
    """What to change where a step does not fit into memory, as words that follow `less with`."""

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
    Raises SettingsError where a step does not fit into memory.
    """
    progress, stored = Progress(), folder.load()
    if stored:
        restore(run, stored[0], folder.path)
        progress = stored[1]
    elif alphas:
        progress.record_alphas(alphas)
    line = EpochLine(epochs, progress.epochs)
    while progress.epochs < epochs:
        row = _epoch(run, progress.epochs, folder)
        progress.history.append(row)
        if alphas:
            progress.record_alphas(alphas)
        folder.save(run.state(), progress)
        line({name: row[name] for name in printed})
        if on_epoch:
            on_epoch(row)
    return progress


def _epoch(run: Run, epoch: int, folder: RunFolder) -> Row:
    try:
        return run.epoch(epoch)
    except RuntimeError as error:  # only CUDA has a type of its own for this
        if not any(words in str(error) for words in NO_MEMORY):
            raise
        first = str(error).partition("\n")[0]
        raise SettingsError(
            f"a step of epoch {epoch + 1} does not fit into memory ({first}); less with "
            f"{run.LESS_MEMORY}. {epoch} finished epochs are kept in {folder.path}."
        ) from error
