"""Whole epochs of the paper's runs, timed on this machine; what all of their epochs would take.

    python -m darts_lib.epoch_times [--epochs 3] [--runs NAME ...] [--scale paper]
        [--dataset cifar10] [--data-root FOLDER] [--json FILE]

A line is printed after each step or epoch that is timed, and the file is written anew after each
run, so that what a lent machine has measured until it is taken back is not lost.
"""

import argparse
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch

from darts_lib.cost.complexity import seconds
from darts_lib.engine.batches import seed_epoch
from darts_lib.engine.command_line import at_least, path_argument, run_command
from darts_lib.engine.devices import machine
from darts_lib.engine.files import check_target
from darts_lib.engine.folder import Row, write_json
from darts_lib.retrain import RetrainConfig, Retraining
from darts_lib.search import Search, SearchConfig
from darts_lib.tools.markdown import table

Given = dict[str, Any]
RUNS: dict[str, Callable[[Given], Search | Retraining]] = {
    "search, first order": lambda given: Search(SearchConfig.create(order=1, **given)),
    "search, second order": lambda given: Search(SearchConfig.create(order=2, **given)),
    "retraining": lambda given: Retraining(RetrainConfig.create(**given)),
}
EPOCHS = {"search, first order": 50, "search, second order": 50, "retraining": 600}
"""How many epochs the paper's runs have (A.1.1, A.2.1)."""

STEPS = 12
"""Steps timed one by one before the epochs: the first builds kernels, the second may record."""


def time_run(name: str, given: Given, epochs: int) -> Row:
    """Time so many epochs of one run; `given` are settings. Seconds, except for hours and GiB."""
    run = RUNS[name]({**given, "epochs": EPOCHS[name]})
    row: Row = {"run": name, "switches": str(run.fast)}
    if run.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(run.device)
    generator = seed_epoch(run.config.seed, 0, run.device)
    # The same batches again if an epoch has too few.
    endless = itertools.chain.from_iterable(run.batches(generator) for _ in itertools.count())
    batches = itertools.islice(endless, STEPS)
    steps = [seconds(partial(run.take, *batch), run.device) for batch in batches]
    row |= {"first step, s": steps[0], "second, s": steps[1], "step, s": median(steps[2:])}
    print({key: value for key, value in row.items() if key != "run"}, flush=True)
    timed = []
    for epoch in range(epochs):
        timed.append(run.epoch(epoch)["seconds"])
        print(f"epoch {epoch + 1}: {timed[-1]:.2f} s", flush=True)
    # The first epoch builds kernels for its last, smaller batch.
    row |= {"epoch, s": median(timed[1:] or timed), "epochs timed": len(timed)}
    row |= {"all epochs": EPOCHS[name], "all, h": EPOCHS[name] * row["epoch, s"] / 3600}
    if run.device.type == "cuda":
        row["GiB"] = torch.cuda.max_memory_allocated(run.device) / 2**30
    return row


def main(arguments: Sequence[str]) -> None:
    """Time the runs, print the table, and write it as JSON with the machine's name if asked."""
    parser = argparse.ArgumentParser("python -m darts_lib.epoch_times", description=main.__doc__)
    parser.add_argument("--epochs", type=int, default=3, help="of each run (default 3)")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS), metavar="NAME")
    parser.add_argument("--scale", default="paper")
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--data-root", default="", metavar="FOLDER")
    parser.add_argument("--json", type=path_argument, metavar="FILE")
    given = parser.parse_args(arguments)
    at_least(given, epochs=1)
    settings = {"scale": given.scale, "dataset": given.dataset, "data_root": given.data_root}
    rows: list[Row] = []
    if given.json:
        check_target(given.json)
    for name in given.runs:
        print(name, flush=True)
        rows.append(time_run(name, settings, given.epochs))
        if given.json:
            write_json(given.json, {"machine": machine(), "epochs": rows})
    print(f"\n{table(rows)}")


if __name__ == "__main__":
    run_command(main)
