"""Plain against fused, in seconds and in what is kept for the backward pass: one run, one table.

    python -m darts_lib.benchmark [--small] [--repeats N] [--batch N] [--device auto] [--json FILE]

The plain side is in `plain` and `recurrent.plain`. Variants take turns, and so do the kinds of
step, so that a busy minute strikes all of them; figures are medians.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from darts_lib.cost.complexity import saved_bytes, seconds
from darts_lib.data.images import Batch, ImageSet
from darts_lib.data.text import Corpus
from darts_lib.engine.command_line import at_least, path_argument, run_command
from darts_lib.engine.devices import keep_freed_memory, machine, resolve_device
from darts_lib.engine.files import check_target
from darts_lib.engine.folder import Row, write_json
from darts_lib.engine.refusals import SettingsError
from darts_lib.plain import OriginalSteps
from darts_lib.recurrent.plain import RecurrentOriginalSteps
from darts_lib.recurrent.search import RecurrentSearch, RecurrentSearchConfig
from darts_lib.retrain import RetrainConfig, Retraining
from darts_lib.search import Search, SearchConfig
from darts_lib.tools.markdown import table

Step = Callable[[], object]
Kinds = Mapping[str, Mapping[str, Step]]
"""For each kind of step, by its name in the table, the variants of it."""


def at_laptop_scale() -> dict[str, Any]:
    """Return the scale of what is compared, on the threads that torch has here and not on one."""
    return {"scale": "laptop", "threads": torch.get_num_threads()}


@dataclass(frozen=True)
class Size:
    """One size of the comparison: a supernet and its images."""

    channels: int
    layers: int
    pixels: int
    batch: int

    def __str__(self) -> str:
        return f"C={self.channels}, {self.layers} cells, {self.pixels} px, batch {self.batch}"

    def config(self, **given: object) -> SearchConfig:
        """Return the search of this size."""
        shape = {"channels": self.channels, "layers": self.layers, "batch_size": self.batch}
        return SearchConfig.create(**at_laptop_scale(), **shape, **given)

    def start(self, device: torch.device, **given: object) -> Search:
        """Return a search of this size before its first step."""
        half = self.pictures()
        return Search(self.config(device=str(device), **given), data=(half, half))

    def pictures(self) -> ImageSet:
        """Return a batch of black pictures of ten classes: only their shape counts."""
        images = torch.zeros(self.batch, 3, self.pixels, self.pixels, dtype=torch.uint8)
        labels, third = torch.arange(self.batch) % 10, (1 / 3, 1 / 3, 1 / 3)
        return ImageSet("black", images, labels, tuple("0123456789"), third, third, 0, False)

    def batch_of(self, device: torch.device) -> Batch:
        """Return random pictures with labels."""
        images = torch.randn(self.batch, 3, self.pixels, self.pixels, device=device)
        return images, torch.randint(10, (self.batch,), device=device)


def sizes(device: torch.device, batch: int = 0) -> tuple[Size, ...]:
    """Return the sizes to compare: the laptop's, and the paper's with so many pictures a batch.

    0 is the paper's batch where a GPU has the memory, and 16 elsewhere: over 64 pictures the plain
    side takes 19 s for a forward and a backward pass on two cores.
    """
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
    paper = 64 if free > 24 * 2**30 else 16  # on the CPU the benchmark held up to 21 GiB with 64
    return Size(8, 4, 16, 64), Size(16, 8, 32, batch or paper)


def compare(size: Size, repeats: int, device: torch.device) -> list[Row]:
    """Compare the plain, the fused and the recomputed supernet in time and memory."""
    batch, _ = batches = (size.batch_of(device), size.batch_of(device))
    plain, laid = (OriginalSteps(size.config(), device) for _ in range(2))
    laid.net.to(memory_format=torch.channels_last)  # as the fused: the structure still differs
    channels_last = (batch[0].to(memory_format=torch.channels_last), batch[1])
    passes: dict[str, Step] = {"plain": partial(plain.gradients, batch)}
    first: dict[str, Step] = {"plain": partial(plain.first_order, *batches)}
    second: dict[str, Step] = {"plain": partial(plain.second_order, *batches)}
    runs = {}
    for name in ("fused", "recomputed"):
        for order, steps in enumerate((first, second), 1):
            run = size.start(device, order=order, recompute=name == "recomputed")
            runs[name, order], steps[name] = run, partial(run.step, *batches)
        passes[name] = partial(both_gradients, runs[name, 1], batch)
    kinds: Kinds = {
        "forward + backward, s": passes,
        "the same, plain in channels_last, s": {
            "plain": partial(laid.gradients, channels_last),
            "fused": passes["fused"],
        },
        "first-order step, s": first,
        "second-order step, s": second,
    }
    rows, run = _timed(str(size), kinds, repeats, device), runs["fused", 1]
    kept = {"plain": saved_bytes(lambda: plain.loss(plain.net, batch))}
    kept["fused"] = saved_bytes(lambda: run.loss(batch)(run.weights, run.alphas))
    mebibytes = {name: value / 2**20 for name, value in kept.items()}
    return [*rows, _row(str(size), "kept for backward, MiB", mebibytes)]


def both_gradients(run: Search, batch: Batch) -> object:
    """Compute the gradients by all weights and alphas with the run's supernet."""
    inputs = [*run.weights.values(), *run.alphas.values()]
    return torch.autograd.grad(run.loss(batch)(run.weights, run.alphas), inputs)


def medians(kinds: Kinds, repeats: int, device: torch.device) -> dict[str, dict[str, float]]:
    """Return each step's median seconds; they take turns, and the first rounds do not count.

    A step that is k times as fast as the slowest of its kind gets k turns a round, up to four: what
    disturbs the machine for a second would else decide its median.
    """
    turns = {what: _turns(steps, device) for what, steps in kinds.items()}
    taken: dict[str, dict[str, list[float]]] = {w: {n: [] for n in s} for w, s in kinds.items()}
    for _ in range(repeats):
        for what, steps in kinds.items():
            for name, step in steps.items():
                taken[what][name] += [seconds(step, device) for _ in range(turns[what][name])]
    return {w: {n: statistics.median(s) for n, s in each.items()} for w, each in taken.items()}


def _turns(steps: Mapping[str, Step], device: torch.device) -> dict[str, int]:
    rounds = 3 if device.type == "cuda" else 1  # the first is eager there, the second records
    for _ in range(rounds):
        last = {name: seconds(step, device) for name, step in steps.items()}
    slowest = max(last.values())
    return {name: max(1, int(min(4, slowest / max(own, 1e-9)))) for name, own in last.items()}


def _row(size: str, what: str, figures: Mapping[str, float]) -> Row:
    """Return a row with how many times each variant's figure goes into the plain one's."""
    rest = {name: value for name, value in figures.items() if name != "plain"}
    ratios = {f"plain / {name}": figures["plain"] / value for name, value in rest.items()}
    return {"size": size, "what": what, **figures, **ratios}


def _timed(size: str, kinds: Kinds, repeats: int, device: torch.device) -> list[Row]:
    print(f"timing {', '.join(kinds)}: {size}", file=sys.stderr, flush=True)
    return [_row(size, what, row) for what, row in medians(kinds, repeats, device).items()]


def compare_retraining(repeats: int, device: torch.device) -> list[Row]:
    """Compare a retraining step with the straightforward one: default layout, nothing fused."""
    cuda = device.type == "cuda"
    size = Size(36, 20, 32, 96) if cuda else Size(16, 8, 32, 32)
    given = {**at_laptop_scale(), "channels": size.channels, "layers": size.layers}
    given |= {"batch_size": size.batch, "drop_path": 0.2, "genotype": "DARTS_V2"}
    given |= {"device": str(device)}
    options = {"plain": {"amp": "off", "graph": "off"}, "ours": {}}
    if cuda:
        options |= {"compiled": {"compile": "on", "graph": "off"}, "no graph": {"graph": "off"}}
    steps: dict[str, Step] = {}
    images = size.batch_of(device)
    for name, option in options.items():
        run = Retraining(RetrainConfig.create(**given, **option), data=size.pictures())
        run.drop_path.fill_(0.1)
        if name == "plain":
            run.net.to(memory_format=torch.contiguous_format)
            parameters = run.net.parameters()
            optimiser = torch.optim.SGD(parameters, 0.025, 0.9, weight_decay=3e-4, foreach=False)
            steps[name] = partial(_plain_retraining, run, optimiser, images)
        else:
            steps[name] = partial(run.step, images)
    return _timed(str(size), {"retraining step, s": steps}, repeats, device)


def _plain_retraining(run: Retraining, optimiser: torch.optim.Optimizer, batch: Batch) -> None:
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
        scale = at_laptop_scale()
        config = RecurrentSearchConfig.create(**scale, width=width, batch_size=16, order=order)
        plain = RecurrentOriginalSteps(config, words, device)
        train, valid, test = torch.randint(words, (3, 48))
        text = Corpus(train, valid, test, tuple(map(str, range(words))))
        fused = RecurrentSearch(config, data=text)
        segments = [torch.randint(words, (2, config.bptt, 16), device=device) for _ in range(2)]
        arguments = [(tokens[0], tokens[1]) for tokens in segments]
        original = plain.first_order if order == 1 else plain.second_order
        kinds[what] = {
            "plain": partial(original, *arguments),
            "fused": partial(fused.step, *arguments),
        }
    size = f"width {width}, batch 16, {config.bptt} words, vocabulary {words:,}"
    return _timed(size, kinds, repeats, device)


def main(arguments: Sequence[str]) -> None:
    """Measure, print the tables, and write them as JSON with the machine's name if asked."""
    parser = argparse.ArgumentParser(prog="python -m darts_lib.benchmark", description=main.__doc__)
    parser.add_argument("--small", action="store_true", help="one tiny size, to see that it runs")
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count (default 5)")
    parser.add_argument(
        "--batch", type=int, default=0, help="of C=16; default 64 on a GPU that can, 16 elsewhere"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=path_argument, metavar="FILE")
    given = parser.parse_args(arguments)
    at_least(given, repeats=1, batch=0)
    if given.small and given.batch:
        raise SettingsError(f"--batch {given.batch} is not for --small: leave one of them out.")
    device = resolve_device(given.device)
    compared = (Size(4, 3, 8, 16),) if given.small else sizes(device, given.batch)
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
    }
    print("  ".join(f"{name}: {value}" for name, value in machine().items()))
    for title, rows in tables.items():
        if rows:
            print(f"\n{title}\n\n{table(rows)}")
    if given.json:
        write_json(given.json, {"machine": machine(), **tables})


if __name__ == "__main__":
    run_command(main)
