"""Who does the runs of a sweep: the workers of a Dask cluster, here or elsewhere.

Whoever reaches the port of a worker runs code as its owner, so what is started here listens on this
machine's own address alone, and a cluster elsewhere is spoken to over TLS where it has that.
"""

import asyncio
import contextlib
import logging
import math
import os
import platform
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import torch

from darts_lib.engine.progress import counted, duration
from darts_lib.engine.refusals import SettingsError, one_line
from darts_lib.tools.sweep_runs import ChapterRun, Outcome, RunFailedError, run_chapter, run_to_end

try:
    import distributed
    from distributed import Client, Future, Nanny, Scheduler, Security, SpecCluster, get_worker, rpc
    from distributed.scheduler import KilledWorker
except ImportError as error:  # an extra: the chapters do without it
    raise SettingsError(f"a sweep needs {error.name}: pip install 'darts-lib[sweep]'") from error

GPU = {"GPU": 1.0}
"""What a run takes of a worker with a GPU: `dask worker ... --resources GPU=1`."""

STARTED = "a run of a sweep is started"
"""The topic under which workers tell it."""

LOOK, AGAIN = 5.0, 60.0
"""Seconds between two looks for a worker, and between two lines that say there is none."""


@contextlib.contextmanager
def local_cluster(
    workers: int, threads: int, dashboard: str = "127.0.0.1:8787"
) -> Iterator[SpecCluster]:
    """Start a scheduler and worker processes on this machine, and end them all afterwards.

    Each worker takes one run at a time, on a GPU of its own where there are as many, and computes
    with so many threads of the CPU. A worker that dies is replaced. All sockets are on loopback.
    Raises SettingsError if it cannot start.
    """
    gpus = visible_gpus()
    spec = {}
    for number in range(workers):
        environment = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        environment["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)] if gpus else ""
        worker = {"nthreads": 1, "resources": GPU if gpus else {}, "env": environment}
        # Whoever reaches a worker's port runs code: without a host it listens on all interfaces.
        worker |= {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
        # A run's memory is its kernel's, which Dask does not see.
        worker |= {"memory_limit": 0, "silence_logs": logging.ERROR}
        spec[number] = {"cls": Nanny, "options": worker}
    options = {"host": "127.0.0.1", "port": 0, "dashboard": True, "dashboard_address": dashboard}
    scheduler = {"cls": Scheduler, "options": options}
    try:
        cluster = SpecCluster(spec, scheduler, silence_logs=logging.ERROR)
    except Exception as error:
        raise SettingsError(f"no workers on this machine: {one_line(error)}") from None
    with cluster:
        yield cluster


def visible_gpus() -> list[str]:
    """Return the names of the GPUs that this process sees, as CUDA_VISIBLE_DEVICES has them."""
    count = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return (named or [str(number) for number in range(count)])[:count]


def encrypted(files: Sequence[str]) -> Security:
    """Return how to speak TLS by the files of an authority, a certificate and its key.

    Without files it is Dask's own configuration, by default none. Raises SettingsError.
    """
    names = ("tls_ca_file", "tls_client_cert", "tls_client_key")
    try:
        security = Security(**dict(zip(names, files, strict=True))) if files else Security()
        security.get_connection_args("client")
    except Exception as error:
        raise SettingsError(
            f"--tls {' '.join(files)} cannot be used ({one_line(error)}); "
            "name the files of the authority, the certificate and its key, in this order."
        ) from None
    return security


def connected(address: str, tls: Sequence[str] = (), wait: float = 20.0) -> Client:
    """Return a client of the scheduler at `tcp://HOST:PORT`, or at `tls://HOST:PORT`.

    `tls` are the files of `encrypted`. Raises SettingsError if no scheduler answers in `wait`
    seconds, or one with another Python or distributed than here.
    """
    security = encrypted(tls)
    spoken = security.get_connection_args("client")
    scheme, _, place = address.partition("://")
    if scheme not in ("tcp", "tls") or not re.fullmatch(r"[^/\s]+:\d{1,5}", place):
        raise SettingsError(f"--scheduler {address!r}: must be tcp://HOST:PORT or tls://HOST:PORT.")
    if tls and scheme == "tcp" or scheme == "tls" and not spoken.get("ssl_context"):
        raise SettingsError(
            f"--scheduler {address}: give --tls CA CERT KEY for tls://, and for tls:// alone."
        )
    try:
        _check_versions(address, asyncio.run(_asked_versions(address, spoken, wait)))
        return Client(address, timeout=wait, security=security)
    except SettingsError:
        raise
    except Exception as error:  # whatever listens there, and whatever it says
        cause = error.__cause__ or error  # what Dask's own words for a lost call hide
        late = isinstance(cause, TimeoutError)
        why = f"in {duration(wait)}" if late else one_line(Exception(cause))
        raise SettingsError(
            f"no Dask scheduler answers at {address} ({why}); start one with `dask scheduler`, "
            "or leave --scheduler out for a cluster on this machine."
        ) from None


async def _asked_versions(address: str, spoken: dict[str, Any], wait: float) -> dict[str, Any]:
    """Return the versions of a scheduler and of its workers, by name.

    A client itself would wait for ever for the first word of a port that is not a scheduler's.
    """
    async with asyncio.timeout(wait), rpc(address, connection_args=spoken) as scheduler:
        kind = (await scheduler.identity())["type"]
        if kind != "Scheduler":
            raise ValueError(f"there is a {kind}")
        versions = {"the scheduler": await scheduler.versions(packages=[])}
        with contextlib.suppress(TimeoutError):  # a worker that hangs is not asked
            asked = {"op": "versions", "packages": []}
            answers = scheduler.broadcast(msg=asked, on_error="ignore")
            workers = await asyncio.wait_for(answers, wait / 2)
            versions |= {f"worker {name}": found for name, found in workers.items()}
        return versions


def _check_versions(address: str, versions: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise SettingsError where a machine has another Python or distributed than this one."""
    here = _versions(platform.python_version(), distributed.__version__)
    for name, told in versions.items():
        there = _versions(told["packages"]["python"], told["packages"]["distributed"])
        if there != here:
            raise SettingsError(
                f"{name} of {address} has {there}, and here are {here}: install the same on all."
            )


def _versions(python: str, dask: str) -> str:
    return f"Python {'.'.join(python.split('.')[:2])} and distributed {dask}"


IDLE = "no run is going: workers have other work, or wait for a run folder that is in use"


@dataclass(frozen=True)
class Workers:
    """Hands runs to the workers of `client`; `needs` are the resources that a run takes.

    `wait` are the seconds after which a sweep ends that has no worker for its runs.
    """

    client: Client
    needs: Mapping[str, float] = field(default_factory=dict)
    retries: int = 0
    execute: Callable[[ChapterRun], None] = run_chapter
    wait: float = 600.0

    def run(self, chains: Iterable[Sequence[ChapterRun]]) -> dict[str, Outcome]:
        """Do all runs, those of a chain in turn, and return how each ended, by its name.

        A run that raises is tried `retries` times more; one whose worker dies goes to another.
        A line tells when one is started and when it has ended, and what is missing where none can
        be. Raises SettingsError when the scheduler is lost, or when no worker comes.
        """
        going: set[str] = set()
        self.client.subscribe_topic(STARTED, partial(_tell_start, going))
        execute, futures = partial(_announced, self.execute), {}
        options = {"retries": self.retries, "resources": dict(self.needs)}
        for chain in chains:
            before: list[Future] = []
            for run in chain:
                given = (run_to_end, run, execute, *before)
                before = [self.client.submit(*given, key=str(run.folder), **options)]
                futures[before[0]] = run
        outcomes: dict[str, Outcome] = {}
        for future in self._ended(futures, going):
            outcome = _outcome(future, futures[future])
            going.discard(outcome.name)
            outcomes[outcome.name] = outcome
            print(f"[{len(outcomes)}/{len(futures)}] {outcome.line}", flush=True)
        return outcomes

    def _ended(self, futures: Collection[Future], going: Collection[str]) -> Iterator[Future]:
        """Yield futures as they end; tell each minute what is missing while none can go on."""
        ended, left = SimpleQueue[Future](), len(futures)
        for future in futures:
            future.add_done_callback(ended.put)
        state, since, told = "missing", time.monotonic() - LOOK, -math.inf
        while left:
            missing, now = self._missing(), time.monotonic()
            before, state = state, "missing" if missing else "going" if going else "idle"
            since = since if state == before else now
            if missing and now - since > self.wait + LOOK:
                raise SettingsError(f"{missing}; the same command then goes on where it was.")
            patience = {"missing": LOOK, "idle": AGAIN, "going": math.inf}[state]
            if now - since >= patience and now - told >= AGAIN:
                limit = f"waiting for it, at most {duration(self.wait)}" if missing else "waiting"
                print(f"{missing or IDLE}; {limit}", flush=True)
                told = now
            with contextlib.suppress(Empty):
                yield ended.get(timeout=LOOK)
                left -= 1

    def _missing(self) -> str:
        """Return what is missing where no worker can take a run, and the way out; else nothing."""
        if self.client.status != "running":
            return ""  # its runs end as cancelled
        scheduler = self.client.scheduler
        try:
            found = self.client.sync(scheduler.identity, callback_timeout=LOOK)["workers"]
        except OSError:
            return f"the scheduler at {scheduler.address} does not answer: see that it is alive"
        offers, wanted = [worker["resources"] for worker in found.values()], self.needs.items()
        if any(all(offer.get(name, 0) >= much for name, much in wanted) for offer in offers):
            return ""
        asked = ",".join(f"{name}={much:g}" for name, much in wanted)
        option = f"--resources {asked}" if asked else "--nthreads 1"
        if not offers:
            start = f"`dask worker {scheduler.address} {option}`"
            return f"no worker at {scheduler.address}: start one with {start}"
        return (
            f"{counted(len(offers), 'worker')}, none with {asked}: start it with {option}, "
            "or give -p device cpu"
        )


def _tell_start(going: set[str], event: tuple[float, tuple[str, str]]) -> None:
    """On the client: note that a run is started, and say so."""
    name, folder = event[1]
    going.add(name)
    print(f"{name}: started, its epochs are in {folder}", flush=True)


def _announced(execute: Callable[[ChapterRun], None], run: ChapterRun) -> None:
    """On a worker: let the client know that a run is started, and execute it."""
    get_worker().log_event(STARTED, (run.name, str(run.folder)))
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
