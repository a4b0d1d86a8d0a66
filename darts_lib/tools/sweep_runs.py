"""The runs of a sweep: chapters, executed by papermill, each into a folder of its own.

Papermill runs inside the worker, so that the kernel is the worker's own child: a kernel ends within
a second or two of its parent's death, while a papermill process of its own would live on.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import papermill

from darts_lib.engine.files import locked
from darts_lib.engine.folder import read_json


@dataclass(frozen=True)
class ChapterRun:
    """One papermill execution of a chapter, into its own folder; paths are absolute."""

    chapter: Path
    folder: Path
    parameters: dict[str, Any]

    @property
    def name(self) -> str:
        """Return `short/searched-0`: stage and cell."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def executed(self) -> Path:
        """Return where the chapter is stored as it ran, beside its folder."""
        return self.folder.with_name(f"{self.folder.name}.ipynb")


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its `result.json`, or why it failed and the chapter as it ran."""

    name: str
    executed: str
    result: dict[str, Any] | None
    failure: str = ""

    @property
    def accuracy(self) -> float | None:
        """Return the accuracy that the run reports, a fraction of 1; None if it failed."""
        return None if self.result is None else float(self.result["test_accuracy"])

    @property
    def line(self) -> str:
        """Return one line that tells a person how it ended."""
        if self.result is None:
            return f"{self.name}: failed, {self.failure}; as it ran: {self.executed}"
        if "test_accuracy" not in self.result:
            return f"{self.name}: a cell is found"
        return f"{self.name}: {self.accuracy:.1%} of {self.result['tested_on']}"


class RunFailedError(Exception):
    """A run that ended without a result; one line that says why and where to look."""


def run_to_end(
    run: ChapterRun, execute: Callable[[ChapterRun], None], *_before: object
) -> dict[str, Any]:
    """Start a run, go on with it, or read it back if it is finished; return its `result.json`.

    Waits for the folder while another process holds it: the kernel of a worker that was killed
    lives on for a moment. `_before` are the results of the runs that must come first. Raises
    `RunFailedError`.
    """
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(lock_file(run.folder), f"run folder {run.folder}", wait=math.inf):
        pass
    file = run.folder / "result.json"
    if not file.exists():
        try:
            execute(run)
        except Exception as error:
            if not file.exists():
                raise RunFailedError(_why(error)) from None
            print(f"{run.name} has its result, but {run.executed} failed later: {_why(error)}")
    if not file.exists():
        raise RunFailedError("the chapter ran to its end, but left no result.json")
    return read_json(file)


def lock_file(folder: Path) -> Path:
    """Return the lock that `engine.opening.opened` holds on a run folder."""
    folder = folder.resolve()
    return folder.parent / f".{folder.name}.lock"


def run_chapter(run: ChapterRun) -> None:
    """Execute the chapter with papermill; it is stored as it ran, beside its folder."""
    # Papermill warns of names that the parameter cell lacks; the chapter knows more, or refuses.
    logging.getLogger("papermill").setLevel(logging.ERROR)
    papermill.execute_notebook(
        run.chapter,
        run.executed,
        parameters=run.parameters,
        kernel_name="python3",
        progress_bar=False,
        extra_arguments=["--IPKernelApp.log_level=CRITICAL"],  # else two lines a run
    )


def _why(error: Exception) -> str:
    """Return the one line of an error that says most: papermill shows the whole cell."""
    if isinstance(error, papermill.PapermillExecutionError):
        return f"{error.ename}: {error.evalue}".splitlines()[0]
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else 'no message'}"
