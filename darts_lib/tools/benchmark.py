"""Plain against fused, kept against recomputed, predicted against measured: one run, one table.

    python -m darts_lib.benchmark [--small] [--repeats N] [--batch N] [--device auto] [--json FILE]

The plain side is in `measuring`: `original_steps` and `recurrent_original_steps`. Variants take
turns, and so do the kinds of step, so that a busy minute strikes all of them; figures are medians.
"""

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from darts_lib.cost.complexity import saved_bytes
from darts_lib.cost.step_cost import trace
from darts_lib.cost.timing import Kinds, Step, medians, seconds
from darts_lib.data.images import Batch
from darts_lib.engine.command_line import refused_in_one_line
from darts_lib.engine.devices import machine, resolve_device
from darts_lib.engine.files import check_target
from darts_lib.engine.heap import keep_freed_memory
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.run_files import write_json
from darts_lib.plain import OriginalSteps
from darts_lib.recurrent.plain import RecurrentOriginalSteps
from darts_lib.recurrent.search_step import RecurrentSearchConfig, RecurrentSearchStep
from darts_lib.retrain_step import RetrainConfig, RetrainStep
from darts_lib.search_step import SearchStep
from darts_lib.tools.markdown import table
from darts_lib.tools.resident_memory import measured_memory
from darts_lib.tools.step_sizes import SMALL, Size, random_step, sizes

Row = dict[str, float | str]


def compare(size: Size, repeats: int, device: torch.device) -> list[Row]:
    """Compare the plain, the fused and the recomputed supernet in time, memory and operations."""
    batches = (size.batch_of(device), size.batch_of(device))
    plain = OriginalSteps(size.config(), device)

    def ours(order: int, recompute: bool) -> SearchStep:
        return size.start(device, order=order, recompute=recompute)

    runs = {"fused": ours(1, False), "recomputed": ours(1, True)}
    second = {"fused": ours(2, False), "recomputed": ours(2, True)}
    passes = {name: partial(both_gradients, run, batches[0]) for name, run in runs.items()}
    kinds: dict[str, dict[str, Step]] = {
        "forward + backward, s": {"plain": partial(plain.gradients, batches[0]), **passes},
        "the same, plain in channels_last, s": {
            "plain": _laid(size, batches[0], device),
            "fused": passes["fused"],
        },
        "first-order step, s": {"plain": partial(plain.first_order, *batches)}
        | {name: partial(run.step, *batches) for name, run in runs.items()},
        "second-order step, s": {"plain": partial(plain.second_order, *batches)}
        | {name: partial(run.step, *batches) for name, run in second.items()},
    }
    rows = _timed(str(size), kinds, repeats, device)

    def add(what: str, found: Mapping[str, float]) -> None:
        row: Row = {"size": str(size), "what": what, **found}
        rows.append(row | _ratios(row, "plain"))

    costs = {"plain": trace(plain, lambda twin: twin.gradients(size.batch_of(device)))}
    for name, run in runs.items():
        costs[name] = trace(run, lambda twin: both_gradients(twin, size.batch_of(device)))
    add("peak of forward + backward, MiB", {n: c.peak_bytes / 2**20 for n, c in costs.items()})
    batch = batches[0]
    kept = {"plain": saved_bytes(lambda: plain.loss(plain.net, batch))}
    kept["fused"] = saved_bytes(lambda: runs["fused"].loss(batch)(*runs["fused"].variables))
    add("kept for backward, MiB", {name: value / 2**20 for name, value in kept.items()})
    add("operations of forward + backward", {n: float(c.operations) for n, c in costs.items()})
    return rows


def _laid(size: Size, batch: Batch, device: torch.device) -> Step:
    """Return the plain pass in the fused one's layout: what still differs is the structure."""
    steps, (images, labels) = OriginalSteps(size.config(), device), batch
    steps.net.to(memory_format=torch.channels_last)
    return partial(steps.gradients, (images.to(memory_format=torch.channels_last), labels))


def both_gradients(run: SearchStep, batch: Batch) -> object:
    """Compute the gradients by all weights and alphas with the run's supernet."""
    inputs = [*run.weights.values(), *run.alphas.values()]
    return torch.autograd.grad(run.loss(batch)(*run.variables), inputs)


def _ratios(row: Row, first: str) -> Row:
    """Return how many times each variant's figure goes into the first one's."""
    rest = [name for name, value in row.items() if isinstance(value, float) and name != first]
    return {f"{first} / {name}": float(row[first]) / float(row[name]) for name in rest}


def compare_retraining(repeats: int, device: torch.device) -> list[Row]:
    """Compare a retraining step with the straightforward one: default layout, nothing fused."""
    batch, channels = (96, 36) if device.type == "cuda" else (32, 16)
    size = Size(channels, 20 if device.type == "cuda" else 8, 32, batch)
    given: dict[str, Any] = {"scale": "laptop", "channels": channels, "layers": size.layers}
    given |= {"batch_size": batch, "drop_path": 0.2, "genotype": "DARTS_V2"}
    options = {"plain": {"amp": "off", "graph": "off"}, "ours": {}}
    if device.type == "cuda":
        options |= {"compiled": {"compile": "on", "graph": "off"}, "no graph": {"graph": "off"}}
    steps: dict[str, Step] = {}
    for name, option in options.items():
        run = RetrainStep(RetrainConfig.create(**given, **option), 10, 3, device)
        run.drop_path.fill_(0.1)
        if name == "plain":
            run.net.to(memory_format=torch.contiguous_format)
            parameters = run.net.parameters()
            optimiser = torch.optim.SGD(parameters, 0.025, 0.9, weight_decay=3e-4, foreach=False)
            steps[name] = partial(plain_retraining, run, optimiser, size.batch_of(device))
        else:
            steps[name] = partial(run.step, size.batch_of(device))
    return _timed(str(size), {"retraining step, s": steps}, repeats, device)


def _timed(size: str, kinds: Kinds, repeats: int, device: torch.device) -> list[Row]:
    """Return a row for each kind of step, with the ratios to the plain one."""
    print(f"timing {', '.join(kinds)}: {size}", file=sys.stderr, flush=True)
    found = medians(kinds, repeats, device)
    rows: list[Row] = [{"size": size, "what": what, **row} for what, row in found.items()]
    return [row | _ratios(row, "plain") for row in rows]


def plain_retraining(run: RetrainStep, optimiser: torch.optim.Optimizer, batch: Batch) -> None:
    """Take a retraining step in the straightforward form."""
    optimiser.zero_grad()
    logits, auxiliary = run.net(batch[0])
    loss = run.loss(logits, auxiliary, batch[1])
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(run.net.parameters(), 5.0, foreach=False)
    optimiser.step()
    loss.item()  # what a loop that prints its loss does


def compare_recurrent(repeats: int, device: torch.device, width: int, words: int) -> list[Row]:
    """Compare the steps of a recurrent search with the original's, in both orders."""
    kinds: dict[str, dict[str, Step]] = {}
    for order, what in ((1, "first-order step, s"), (2, "second-order step, s")):
        given = {"scale": "laptop", "width": width, "batch_size": 16, "order": order}
        config = RecurrentSearchConfig.create(**given)
        plain = RecurrentOriginalSteps(config, words, device)
        fused = RecurrentSearchStep(config, words, device)
        segments = [torch.randint(words, (2, config.bptt, 16), device=device) for _ in range(2)]
        arguments = [(tokens[0], tokens[1]) for tokens in segments]
        taken = plain.first_order if order == 1 else plain.second_order
        kinds[what] = {"plain": partial(taken, *arguments)}
        kinds[what]["fused"] = partial(fused.step, *arguments)
    size = f"width {width}, batch 16, {config.bptt} words, vocabulary {words:,}"
    return _timed(size, kinds, repeats, device)


def compare_predictions(sizes: Sequence[Size], repeats: int, device: torch.device) -> list[Row]:
    """Hold the cost model's seconds and memory of a second-order step against what is measured."""
    rows: list[Row] = []
    for size in sizes:
        print(f"predicting, then measuring: {size}", file=sys.stderr, flush=True)
        run = size.start(device, order=2)
        cost, step = trace(run, partial(random_step, size)), partial(random_step, size, run)
        step()
        # In turns, as elsewhere: the machine of the prediction must be that of the step.
        turns = [(cost.seconds(device), seconds(step, device)) for _ in range(repeats)]
        predicted, measured = (statistics.median(column) for column in zip(*turns, strict=True))
        found = {"seconds": (predicted, measured)}
        found["memory, MiB"] = (
            cost.memory(device) / 2**20,
            measured_memory(size, device) / 2**20,
        )
        for what, (predicted, measured) in found.items():
            figures = {"predicted": predicted, "measured": measured}
            rows.append({"size": str(size), "what": what, **figures})
    return [row | _ratios(row, "predicted") for row in rows]


def main(arguments: Sequence[str]) -> None:
    """Measure, print the tables, and write them as JSON with the machine's name if asked."""
    parser = argparse.ArgumentParser(prog="python -m darts_lib.benchmark", description=main.__doc__)
    parser.add_argument("--small", action="store_true", help="one tiny size, to see that it runs")
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count (default 5)")
    parser.add_argument(
        "--batch", type=int, default=0, help="of C=16; default 64 on a GPU that can, 16 elsewhere"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args(arguments)
    with refused_in_one_line():
        if given.small and given.batch:
            raise SettingsError(f"--batch {given.batch} is not for --small: leave one of them out.")
        device = resolve_device(given.device)
        compared = SMALL if given.small else sizes(device, given.batch)
        predicted = SMALL if given.small else (Size(4, 3, 8, 64), *compared)
        for size in compared:
            size.config()  # refuses a batch that cannot be
        if given.json:
            check_target(given.json)
    keep_freed_memory()  # as a run does
    width, words = (8, 50) if given.small else (100, 10_000)
    tables = {
        "supernet": [row for size in compared for row in compare(size, given.repeats, device)],
        "retraining": [] if given.small else compare_retraining(given.repeats, device),
        "recurrent": compare_recurrent(given.repeats, device, width, words),
        "cost model": compare_predictions(predicted, given.repeats, device),
    }
    print("  ".join(f"{name}: {value}" for name, value in machine().items()))
    for title, rows in tables.items():
        if rows:
            print(f"\n{title}\n\n{table(rows)}")
    if given.json:
        write_json(given.json, {"machine": machine(), **tables})
