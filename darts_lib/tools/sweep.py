"""Many runs on a Dask cluster: searches, short retrainings, a selection, full retrainings.

    python -m darts_lib.sweep --scale laptop --workers 2      on this machine
    python -m darts_lib.sweep --scheduler tcp://HOST:8786     on a cluster that is there

Every run is a chapter, executed by papermill into its own folder, so a run whose worker died goes
on elsewhere, and the same command goes on with a sweep that was stopped. All workers must see the
sweep's folder and this project under the same paths.
"""

import argparse
import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from darts_lib import __version__
from darts_lib.engine.files import locked
from darts_lib.engine.places import runs_root
from darts_lib.engine.run_files import write_json
from darts_lib.tools.sweeping.cluster import GPU, Engine, connected, local_cluster, visible_gpus
from darts_lib.tools.sweeping.figures import Final, Judged, Outcome, select, summary, tables
from darts_lib.tools.sweeping.plan import KINDS, Plan, SweepConfig, chapter_settings
from darts_lib.tools.sweeping.run import Run


def sweep(plan: Plan, engine: Engine) -> dict[str, Any]:
    """Run what is not finished yet, select, and return all figures, stored as `result.json`.

    A run that keeps failing is named in the table; the others go on. Raises SettingsError for a
    folder that is in use or holds another sweep, and when the scheduler is lost.
    """
    plan.root.mkdir(parents=True, exist_ok=True)
    with locked(plan.root / ".sweep.lock", f"sweep folder {plan.root}", wait=0):
        plan.claim()
        chains = {cell: plan.chain(cell) for cell in plan.cells()}
        ended = engine.run(list(chains.values()))
        judged = [Judged(cell, _end(chain, ended)) for cell, chain in chains.items()]
        best = [found for kind in KINDS if (found := select(judged, kind))]
        ended = engine.run([[run] for each in best for run in plan.full(each.cell)])
        finals = [Final(b, tuple(ended[run.name] for run in plan.full(b.cell))) for b in best]
        return _stored(plan, judged, finals)


def _end(chain: Sequence[Run], ended: Mapping[str, Outcome]) -> Outcome:
    """Return the outcome of a chain's last run, or of the first that failed."""
    outcomes = [ended[run.name] for run in chain]
    return next((outcome for outcome in outcomes if not outcome.result), outcomes[-1])


def _stored(plan: Plan, judged: Sequence[Judged], finals: Sequence[Final]) -> dict[str, Any]:
    settings = plan.config.model_dump(mode="json")
    figures = {"library": __version__, "settings": settings, **summary(judged, finals)}
    write_json(plan.root / "result.json", figures)
    print(f"\n{tables(judged, finals)}\n\nfigures: {plan.root / 'result.json'}")
    return figures


@contextlib.contextmanager
def opened_engine(config: SweepConfig, scheduler: str, workers: int) -> Iterator[Engine]:
    """Yield the engine of a scheduler's address, or of a cluster of this machine if it is empty."""
    with contextlib.ExitStack() as stack:
        needs = GPU if visible_gpus() else {}
        if not scheduler:
            count = workers or len(visible_gpus()) or 1
            threads = 1 if config.scale == "laptop" else max(1, (os.cpu_count() or 1) // count)
            scheduler = stack.enter_context(local_cluster(count, threads)).scheduler_address
        else:
            needs = {} if config.on_cpu else GPU
            asked = "nothing" if config.on_cpu else "--resources GPU=1 (-p device cpu: nothing)"
            print(f"runs ask of a worker: {asked}")
        client = stack.enter_context(connected(scheduler))
        print(f"dashboard: {client.dashboard_link}", flush=True)
        yield Engine(client, needs, config.retries)


OPTIONS = {
    "seed": "of the first cell of each kind; the next ones count on",
    "searches": "cells to search",
    "randoms": "cells to draw at random",
    "finals": "full retrainings of the best cell of each kind",
    "search_epochs": "of a search",
    "short_epochs": "of the retraining that selects",
    "full_epochs": "of a full retraining",
    "holdout": "share of the training images that selects",
    "retries": "of a run that failed",
}
"""Fields of SweepConfig on the command line; what is not given is the scale's own."""


def parser() -> argparse.ArgumentParser:
    """Return the reader of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m darts_lib.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    where = runs_root() / "sweep"
    made.add_argument("--folder", type=Path, default=where, help=f"of the sweep ({where})")
    made.add_argument("--scheduler", default="", help="tcp://HOST:8786; else on this machine")
    made.add_argument("--workers", type=int, default=0, help="on this machine: one a GPU, or one")
    made.add_argument("--scale", default="auto", choices=("auto", "laptop", "paper"))
    for name, what in OPTIONS.items():
        kind = float if name == "holdout" else int
        made.add_argument(f"--{name.replace('_', '-')}", type=kind, help=what)
    made.add_argument(
        "-p",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a setting of chapters 03 and 05; search.NAME or retrain.NAME is for one of them",
    )
    return made


def read_config(given: argparse.Namespace) -> SweepConfig:
    """Return the configuration that the command line asks for; raise SettingsError if wrong."""
    named = {name: value for name in OPTIONS if (value := getattr(given, name)) is not None}
    config = SweepConfig.create(scale=given.scale, **named)
    return config.with_settings(chapter_settings(given.p, config.scale))


def main(arguments: Sequence[str]) -> int:
    """Run a sweep as the command line says; return 1 if a run failed for good."""
    given = parser().parse_args(arguments)
    config = read_config(given)
    plan = Plan(config, given.folder.expanduser().resolve())
    print("  ".join(f"{name}={value}" for name, value in config.model_dump().items()))
    with opened_engine(config, given.scheduler, given.workers) as engine:
        return 1 if sweep(plan, engine)["failed"] else 0
