"""Where the runs of a sweep go: a Dask cluster on this machine, or a scheduler that is there."""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from darts_lib.engine.refusals import SettingsError
from darts_lib.tools.sweeping.figures import Outcome
from darts_lib.tools.sweeping.run import Execute, Run, RunFailedError, run_chapter, run_to_end

try:
    from distributed import Client, Future, Nanny, Scheduler, SpecCluster, as_completed, get_worker
    from distributed.scheduler import KilledWorker
except ModuleNotFoundError as error:  # an extra: the chapters do without it
    raise SettingsError(f"a sweep needs {error.name}: pip install 'darts-lib[sweep]'") from error

GPU = {"GPU": 1.0}
"""What a run takes of a worker with a GPU: `dask worker ... --resources GPU=1`."""

STARTED = "a run of a sweep is started"
"""The topic under which workers tell it."""


@contextlib.contextmanager
def local_cluster(
    workers: int, threads: int, dashboard: str = "127.0.0.1:8787"
) -> Iterator[SpecCluster]:
    """Start a scheduler and worker processes on this machine, and end them all afterwards.

    Each worker takes one run at a time, on a GPU of its own where there are as many, and computes
    with so many threads of the CPU. 0 workers are one a GPU, or one on a CPU. A worker that dies is
    replaced.
    """
    gpus = visible_gpus()
    spec = {
        number: {
            "cls": Nanny,
            "options": {
                "nthreads": 1,
                "memory_limit": 0,  # a run's memory is its kernel's, which Dask does not see
                "resources": GPU if gpus else {},
                "silence_logs": logging.WARNING,
                "env": _environment(threads, gpus[number % len(gpus)] if gpus else ""),
            },
        }
        for number in range(workers or len(gpus) or 1)
    }
    options = {"host": "127.0.0.1", "port": 0, "dashboard": True, "dashboard_address": dashboard}
    scheduler = {"cls": Scheduler, "options": options}
    with SpecCluster(spec, scheduler, silence_logs=logging.WARNING) as cluster:
        yield cluster


def visible_gpus() -> list[str]:
    """Return the names of the GPUs that this process sees, as CUDA_VISIBLE_DEVICES has them."""
    count = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return (named or [str(number) for number in range(count)])[:count]


def _environment(threads: int, gpu: str) -> dict[str, str]:
    counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    return {**counts, "CUDA_VISIBLE_DEVICES": gpu}


def connected(address: str, wait: float = 20.0) -> Client:
    """Return a client of the scheduler at an address; raise SettingsError if none answers.

    It is tried for `wait` seconds.
    """
    try:
        return Client(address, timeout=wait)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"no Dask scheduler answers at {address} ({error}); start one with `dask scheduler`, "
            "or leave --scheduler out for a cluster on this machine."
        ) from error


@dataclass(frozen=True)
class Engine:
    """Hands runs to the workers of `client`; `needs` are the resources that a run takes."""

    client: Client
    needs: Mapping[str, float] = field(default_factory=dict)
    retries: int = 0
    execute: Execute = run_chapter

    def run(self, chains: Sequence[Sequence[Run]]) -> dict[str, Outcome]:
        """Do all runs, those of a chain in turn, and return how each ended, by its name.

        A run that raises is tried `retries` times more; one whose worker dies goes to another.
        A line tells when one is started and when it has ended. Raises SettingsError when the
        scheduler is lost.
        """
        self.client.subscribe_topic(STARTED, lambda event: print(event[1], flush=True))
        futures = {}
        for chain in chains:
            before: list[Future] = []
            for run in chain:
                before = [self._submit(run, before)]
                futures[before[0]] = run
        outcomes: dict[str, Outcome] = {}
        for future in as_completed(list(futures)):
            run = futures[future]
            outcomes[run.name] = outcome = _outcome(future, run)
            print(f"[{len(outcomes)}/{len(futures)}] {outcome.line}", flush=True)
        return outcomes

    def _submit(self, run: Run, before: Sequence[Future]) -> Future:
        return self.client.submit(
            run_to_end,
            run,
            partial(_told, self.execute),
            *before,
            key=str(run.folder),
            retries=self.retries,
            resources=dict(self.needs),
        )


def _told(execute: Execute, run: Run) -> None:
    """On a worker: let the client know that a run is started, and execute it."""
    get_worker().log_event(STARTED, f"{run.name}: started, its epochs are in {run.folder}")
    execute(run)


def _outcome(future: Future, run: Run) -> Outcome:
    if future.cancelled():
        raise SettingsError("the scheduler was lost; the same command goes on where it was.")
    if future.status == "finished":
        return Outcome(run.name, str(run.executed), future.result())
    error = future.exception()
    if isinstance(error, KilledWorker):
        why = "each worker that took it died"
    else:
        why = str(error) if isinstance(error, RunFailedError) else repr(error)
    return Outcome(run.name, str(run.executed), None, why)
