"""Many runs on a Dask cluster: searches, short retrainings, a selection, full retrainings.

    python -m darts_lib.sweep --scale laptop --workers 2      on this machine
    python -m darts_lib.sweep --scheduler tcp://HOST:8786     on a cluster that is there
    ... --scheduler tls://HOST:8786 --tls CA CERT KEY         the same, encrypted

Every run is a chapter, executed by papermill into its own folder, so a run whose worker died goes
on elsewhere, and the same command goes on with a sweep that was stopped. All workers must see the
sweep's folder and this project under the same paths.
"""

import argparse
import contextlib
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from darts_lib import __version__
from darts_lib.engine.command_line import at_least, run_command
from darts_lib.engine.files import locked
from darts_lib.engine.folder import write_json
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.settings import runs_root
from darts_lib.tools.markdown import table
from darts_lib.tools.sweep_plan import KINDS, Cell, Plan, SweepConfig, chapter_settings
from darts_lib.tools.sweep_runs import Outcome

if TYPE_CHECKING:  # the extra that it needs is asked for when a sweep is made
    from darts_lib.tools.sweep_workers import Workers


def sweep(plan: Plan, workers: "Workers") -> dict[str, Any]:
    """Run what is not finished yet, select, and return all figures, stored as `result.json`.

    A run that keeps failing is named in the table; the others go on. Raises SettingsError for a
    folder that is in use or holds another sweep, and when the scheduler is lost.
    """
    plan.root.mkdir(parents=True, exist_ok=True)
    with locked(plan.root / ".sweep.lock", f"sweep folder {plan.root}", wait=0):
        plan.claim()
        chains = {cell: plan.chain(cell) for cell in plan.cells()}
        outcomes = workers.run(chains.values())
        judged = {}  # by its last run, or by the first that failed
        for cell, chain in chains.items():
            ended = [outcomes[run.name] for run in chain]
            judged[cell] = next((run for run in ended if not run.result), ended[-1])
        best = [chosen for kind in KINDS if (chosen := select(judged, kind))]
        outcomes = workers.run([run] for cell in best for run in plan.full(cell))
        finals = {cell: [outcomes[run.name] for run in plan.full(cell)] for cell in best}
        settings = plan.config.model_dump(mode="json")
        figures = {"library": __version__, "settings": settings, **summary(judged, finals)}
        write_json(plan.root / "result.json", figures)
        print(f"\n{tables(figures)}\n\nfigures: {plan.root / 'result.json'}")
        return figures


def spread(values: Iterable[float]) -> dict[str, Any] | None:
    """Return mean, standard deviation (`count - 1`) and the mean's standard error of some figures.

    One figure has no deviation, so both are None then; no figures have no spread.
    """
    if not (known := list(values)):
        return None
    deviation = statistics.stdev(known) if known[1:] else None
    error = deviation and deviation / len(known) ** 0.5
    mean = statistics.fmean(known)
    return {"count": len(known), "mean": mean, "deviation": deviation, "standard_error": error}


def _error_spread(outcomes: Iterable[Outcome]) -> dict[str, Any] | None:
    """Return the spread of the errors, fractions of 1, of the runs that did not fail."""
    return spread(1 - run.accuracy for run in outcomes if run.accuracy is not None)


def select(judged: Mapping[Cell, Outcome], kind: str) -> Cell | None:
    """Return the cell of a kind with the best held-out accuracy; of equal ones the first."""
    known = {c: run.accuracy or 0.0 for c, run in judged.items() if c.kind == kind and run.result}
    return max(known, key=lambda cell: known[cell], default=None)


def summary(
    judged: Mapping[Cell, Outcome], finals: Mapping[Cell, Sequence[Outcome]]
) -> dict[str, Any]:
    """Return all figures of a sweep as JSON's types; accuracies and errors are fractions of 1.

    `judged` are the short retrainings of all cells, `finals` the full ones of the selected cells.
    """
    outcomes = [*judged.values(), *(run for runs in finals.values() for run in runs)]
    machines = [run.result["machine"] for run in outcomes if run.result]
    cells, errors, best = [], {}, {}
    for cell, run in judged.items():
        cells.append({"name": cell.name, **asdict(cell)})
        if run.result:
            cells[-1] |= {"validation_accuracy": run.accuracy}
            cells[-1] |= {"validation_images": run.result["test_images"]}
            kept = ("genotype", "parameters", "multiply_adds", "hours")
            cells[-1] |= {name: run.result[name] for name in kept}
    for kind in KINDS:
        errors[kind] = _error_spread(run for cell, run in judged.items() if cell.kind == kind)
    for cell, runs in finals.items():
        selected = {"name": cell.name, "validation_accuracy": judged[cell].accuracy}
        accuracies = {run.name: run.accuracy for run in runs}
        tested = {"test_accuracies": accuracies, "test_error": _error_spread(runs)}
        best[cell.kind] = {**selected, **tested}
    return {
        "cells": cells,
        "validation_error": errors,
        "best": best,
        "failed": [asdict(run) for run in outcomes if not run.result],
        "machines": [m for i, m in enumerate(machines) if m not in machines[:i]],
    }


def tables(figures: Mapping[str, Any]) -> str:
    """Return a sweep's figures in Markdown: best and means, then every cell, then what failed."""
    compared, cells = [], []
    for kind, best in figures["best"].items():
        errors = best["test_error"] or {"count": 0, "mean": None, "deviation": None}
        row = {"cell": f"best {kind} ({best['name']})"}
        row |= {"validation error": _percent(1 - best["validation_accuracy"]), "cells": "1"}
        row |= {"test error": _percent(errors["mean"], errors.get("standard_error"))}
        row |= {"deviation": _percent(errors["deviation"], none="none of one")}
        compared.append({**row, "retrainings": str(errors["count"])})
    for kind, errors in figures["validation_error"].items():
        if errors:
            mean = _percent(errors["mean"], errors["standard_error"])
            row = {"cell": f"mean of {kind}", "validation error": mean}
            compared.append({**row, "cells": str(errors["count"])})
    for cell in figures["cells"]:
        row = {"cell": cell["name"], "seed": str(cell["seed"]), "validation error": "failed"}
        if "validation_accuracy" in cell:
            row |= {"validation error": _percent(1 - cell["validation_accuracy"])}
            row |= {"parameters": f"{cell['parameters']:,}"}
            row |= {"multiply-adds": f"{cell['multiply_adds'] / 1e6:.2f} M"}
        cells.append(row)
    failed = [
        {"failed": run["name"], "why": run["failure"], "as it ran": run["executed"]}
        for run in figures["failed"]
    ]
    return "\n\n".join(table(rows) for rows in (compared, cells, failed) if rows)


def _percent(share: float | None, error: float | None = None, none: str = "failed") -> str:
    """Write a share, with the standard error of a mean where there is one."""
    if share is None:
        return none
    return f"{100 * share:.1f} %" if error is None else f"{100 * share:.1f} ± {100 * error:.1f} %"


OPTIONS = {n: field for n, field in SweepConfig.model_fields.items() if field.description}
"""Fields of SweepConfig on the command line; what is not given is the scale's own."""


TLS = "files of an authority, a certificate and its key, for --scheduler tls://HOST:8786"


def parser() -> argparse.ArgumentParser:
    """Return the reader of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m darts_lib.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    where = runs_root() / "sweep"
    made.add_argument("--folder", default=str(where), help=f"of the sweep ({where})")
    made.add_argument("--scheduler", default="", help="tcp://HOST:8786; else on this machine")
    made.add_argument("--tls", nargs=3, default=[], metavar=("CA", "CERT", "KEY"), help=TLS)
    made.add_argument("--wait", type=float, default=10, help="minutes for a worker to come (10)")
    made.add_argument("--workers", type=int, default=0, help="on this machine: one a GPU, or one")
    made.add_argument("--scale", default="auto", choices=("auto", "laptop", "paper"))
    for name, field in OPTIONS.items():
        option, kind = f"--{name.replace('_', '-')}", field.annotation
        made.add_argument(option, type=kind, help=field.description)  # type: ignore[arg-type]
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
    return config.model_copy(update=chapter_settings(given.p, config.scale))


def main(arguments: Sequence[str]) -> int:
    """Run a sweep as the command line says; return 1 if a run failed for good."""
    given = parser().parse_args(arguments)
    at_least(given, workers=0, wait=0)
    if given.tls and not given.scheduler:
        raise SettingsError("--tls is for --scheduler tls://HOST:PORT; leave it out.")
    config = read_config(given)
    from darts_lib.tools import sweep_workers as cluster

    plan = Plan.create(config, given.folder)
    print("  ".join(f"{name}={value}" for name, value in config.model_dump().items()))
    gpus, scheduler = cluster.visible_gpus(), given.scheduler
    with contextlib.ExitStack() as stack:
        if scheduler:
            needs = {} if config.on_cpu else cluster.GPU
            asked = "nothing" if config.on_cpu else "--resources GPU=1 (-p device cpu: nothing)"
            print(f"runs ask of a worker: {asked}")
        else:
            needs, count = cluster.GPU if gpus else {}, given.workers or len(gpus) or 1
            count = min(count, plan.runs_at_once)
            threads = 1 if config.scale == "laptop" else max(1, (os.cpu_count() or 1) // count)
            here = stack.enter_context(cluster.local_cluster(count, threads))
            scheduler = here.scheduler_address
        client = stack.enter_context(cluster.connected(scheduler, given.tls))
        print(f"dashboard: {client.dashboard_link}", flush=True)
        workers = cluster.Workers(client, needs, config.retries, wait=60 * given.wait)
        return 1 if sweep(plan, workers)["failed"] else 0


if __name__ == "__main__":
    run_command(main)
