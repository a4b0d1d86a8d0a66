"""What a sweep found: means with their standard errors, the selection, and the table."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from darts_lib.tools.markdown import table
from darts_lib.tools.sweeping.plan import KINDS, Cell


@dataclass(frozen=True)
class Spread:
    """Mean of `count` figures, their standard deviation (`count - 1`), the mean's standard error.

    One figure has no deviation: both are None then.
    """

    count: int
    mean: float
    deviation: float | None
    standard_error: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread | None":
        """Return the spread of some figures, or None of none."""
        if not values:
            return None
        if len(values) == 1:
            return cls(1, values[0], None, None)
        deviation = statistics.stdev(values)
        error = deviation / len(values) ** 0.5
        return cls(len(values), statistics.fmean(values), deviation, error)


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


@dataclass(frozen=True)
class Judged:
    """A cell with its short retraining, judged on held-out training images."""

    cell: Cell
    short: Outcome


@dataclass(frozen=True)
class Final:
    """A selected cell with its full retrainings, judged on the test images."""

    chosen: Judged
    runs: tuple[Outcome, ...]

    @property
    def errors(self) -> Spread | None:
        """Return the spread of the test error, a fraction of 1."""
        return Spread.of([1 - run.accuracy for run in self.runs if run.accuracy is not None])


def validation_errors(judged: Sequence[Judged], kind: str) -> Spread | None:
    """Return the spread over the cells of a kind that were judged, as fractions of 1."""
    accuracies = [each.short.accuracy for each in judged if each.cell.kind == kind]
    return Spread.of([1 - accuracy for accuracy in accuracies if accuracy is not None])


def select(judged: Sequence[Judged], kind: str) -> Judged | None:
    """Return the cell of a kind with the best held-out accuracy; of equal ones the first."""
    mine = [each for each in judged if each.cell.kind == kind and each.short.result]
    return max(mine, key=lambda each: each.short.accuracy or 0.0, default=None)


def summary(judged: Sequence[Judged], finals: Sequence[Final]) -> dict[str, Any]:
    """Return all figures of a sweep as JSON's types; accuracies and errors are fractions of 1."""
    outcomes = [each.short for each in judged] + [run for final in finals for run in final.runs]
    machines = [run.result["machine"] for run in outcomes if run.result]
    return {
        "cells": [_cell_figures(each) for each in judged],
        "validation_error": {kind: _plain(validation_errors(judged, kind)) for kind in KINDS},
        "best": {final.chosen.cell.kind: _best_figures(final) for final in finals},
        "failed": [asdict(run) for run in outcomes if not run.result],
        "machines": [m for i, m in enumerate(machines) if m not in machines[:i]],
    }


def _plain(spread: Spread | None) -> dict[str, Any] | None:
    return asdict(spread) if spread else None


def _cell_figures(judged: Judged) -> dict[str, Any]:
    figures = {"name": judged.cell.name, "kind": judged.cell.kind, "seed": judged.cell.seed}
    if judged.short.result is None:
        return figures
    kept = ("genotype", "parameters", "multiply_adds", "test_images", "hours")
    kept_figures = {name: judged.short.result[name] for name in kept}
    kept_figures["validation_images"] = kept_figures.pop("test_images")
    return {**figures, "validation_accuracy": judged.short.accuracy, **kept_figures}


def _best_figures(final: Final) -> dict[str, Any]:
    accuracies = {run.name: run.accuracy for run in final.runs}
    return {
        "name": final.chosen.cell.name,
        "validation_accuracy": final.chosen.short.accuracy,
        "test_accuracies": accuracies,
        "test_error": _plain(final.errors),
    }


def tables(judged: Sequence[Judged], finals: Sequence[Final]) -> str:
    """Return the tables in Markdown: best and means, then every cell, then what failed."""
    means = [_mean_row(kind, validation_errors(judged, kind)) for kind in KINDS]
    bests = [_best_row(final) for final in finals]
    parts = [
        table([row for row in (*bests, *means) if row]),
        table([_cell_row(each) for each in judged]),
    ]
    outcomes = [each.short for each in judged] + [run for final in finals for run in final.runs]
    failed = [run for run in outcomes if not run.result]
    if failed:
        rows = [{"failed": r.name, "why": r.failure, "as it ran": r.executed} for r in failed]
        parts.append(table(rows))
    return "\n\n".join(parts)


def _best_row(final: Final) -> dict[str, str]:
    accuracy = final.chosen.short.accuracy
    return {
        "cell": f"best {final.chosen.cell.kind} ({final.chosen.cell.name})",
        "validation error": _percent(Spread.of([1 - accuracy] if accuracy is not None else [])),
        "cells": "1",
        "test error": _percent(final.errors),
        "deviation": _deviation(final.errors),
        "retrainings": str(final.errors.count if final.errors else 0),
    }


def _mean_row(kind: str, spread: Spread | None) -> dict[str, str]:
    if spread is None:
        return {}
    return {
        "cell": f"mean of {kind}",
        "validation error": _percent(spread),
        "cells": str(spread.count),
    }


def _cell_row(judged: Judged) -> dict[str, str]:
    result, accuracy = judged.short.result, judged.short.accuracy
    row = {"cell": judged.cell.name, "seed": str(judged.cell.seed)}
    if result is None or accuracy is None:
        return {**row, "validation error": "failed"}
    return {
        **row,
        "validation error": f"{100 * (1 - accuracy):.1f} %",
        "parameters": f"{result['parameters']:,}",
        "multiply-adds": f"{result['multiply_adds'] / 1e6:.2f} M",
    }


def _percent(spread: Spread | None) -> str:
    if spread is None:
        return "failed"
    if spread.standard_error is None:
        return f"{100 * spread.mean:.1f} %"
    return f"{100 * spread.mean:.1f} ± {100 * spread.standard_error:.1f} %"


def _deviation(spread: Spread | None) -> str:
    if spread is None or spread.deviation is None:
        return "none of one"
    return f"{100 * spread.deviation:.1f} %"
