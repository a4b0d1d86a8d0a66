"""The runs of a sweep and who does them: chapters by papermill, on the workers of a Dask cluster.

Papermill runs inside the worker, so that the kernel is the worker's own child: a kernel ends within
a second or two of its parent's death, while a papermill process of its own would live on.
"""

import contextlib
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import papermill
import torch

from darts_lib.engine.files import locked
from darts_lib.engine.folder import read_json
from darts_lib.engine.refusals import SettingsError

try:
    from distributed import Client, Future, Nanny, Scheduler, SpecCluster, as_completed, get_worker
    from distributed.scheduler import KilledWorker
except ModuleNotFoundError as error:  # an extra: the chapters do without it
    raise SettingsError(f"a sweep needs {error.name}: pip install 'darts-lib[sweep]'") from error

GPU = {"GPU": 1.0}
"""What a run takes of a worker with a GPU: `dask worker ... --resources GPU=1`."""

STARTED = "a run of a sweep is started"
"""The topic under which workers tell it."""


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


@contextlib.contextmanager
def local_cluster(
    workers: int, threads: int, dashboard: str = "127.0.0.1:8787"
) -> Iterator[SpecCluster]:
    """Start a scheduler and worker processes on this machine, and end them all afterwards.

    Each worker takes one run at a time, on a GPU of its own where there are as many, and computes
    with so many threads of the CPU. A worker that dies is replaced.
    """
    gpus = visible_gpus()
    spec = {}
    for number in range(workers):
        environment = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        environment["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)] if gpus else ""
        worker = {"nthreads": 1, "resources": GPU if gpus else {}, "env": environment}
        # A run's memory is its kernel's, which Dask does not see.
        worker |= {"memory_limit": 0, "silence_logs": logging.WARNING}
        spec[number] = {"cls": Nanny, "options": worker}
    options = {"host": "127.0.0.1", "port": 0, "dashboard": True, "dashboard_address": dashboard}
    scheduler = {"cls": Scheduler, "options": options}
    with SpecCluster(spec, scheduler, silence_logs=logging.WARNING) as cluster:
        yield cluster


def visible_gpus() -> list[str]:
    """Return the names of the GPUs that this process sees, as CUDA_VISIBLE_DEVICES has them."""
    count = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return (named or [str(number) for number in range(count)])[:count]


def connected(address: str, wait: float = 20.0) -> Client:
    """Return a client of a scheduler; raise SettingsError if none answers in `wait` seconds."""
    try:
        return Client(address, timeout=wait)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"no Dask scheduler answers at {address} ({error}); start one with `dask scheduler`, "
            "or leave --scheduler out for a cluster on this machine."
        ) from error


@dataclass(frozen=True)
class Workers:
    """Hands runs to the workers of `client`; `needs` are the resources that a run takes."""

    client: Client
    needs: Mapping[str, float] = field(default_factory=dict)
    retries: int = 0
    execute: Callable[[ChapterRun], None] = run_chapter

    def run(self, chains: Iterable[Sequence[ChapterRun]]) -> dict[str, Outcome]:
        """Do all runs, those of a chain in turn, and return how each ended, by its name.

        A run that raises is tried `retries` times more; one whose worker dies goes to another.
        A line tells when one is started and when it has ended. Raises SettingsError when the
        scheduler is lost.
        """
        self.client.subscribe_topic(STARTED, lambda event: print(event[1], flush=True))
        execute, futures = partial(_announced, self.execute), {}
        options = {"retries": self.retries, "resources": dict(self.needs)}
        for chain in chains:
            before: list[Future] = []
            for run in chain:
                given = (run_to_end, run, execute, *before)
                before = [self.client.submit(*given, key=str(run.folder), **options)]
                futures[before[0]] = run
        outcomes: dict[str, Outcome] = {}
        for future in as_completed(list(futures)):
            outcome = _outcome(future, futures[future])
            outcomes[outcome.name] = outcome
            print(f"[{len(outcomes)}/{len(futures)}] {outcome.line}", flush=True)
        return outcomes


def _announced(execute: Callable[[ChapterRun], None], run: ChapterRun) -> None:
    """On a worker: let the client know that a run is started, and execute it."""
    get_worker().log_event(STARTED, f"{run.name}: started, its epochs are in {run.folder}")
    execute(run)


def _outcome(future: Future, run: ChapterRun) -> Outcome:
    if future.cancelled():
        raise SettingsError("the scheduler was lost; the same command goes on where it was.")
    name, executed = run.name, str(run.executed)
    if future.status == "finished":
        return Outcome(name, executed, future.result())
    error = future.exception()
    if isinstance(error, KilledWorker):
        return Outcome(name, executed, None, "each worker that took it died")
    why = str(error) if isinstance(error, RunFailedError) else repr(error)
    return Outcome(name, executed, None, why)
