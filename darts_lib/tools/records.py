"""Records: what is kept of a finished run in the repository, and the README's table made of them.

A record is a small JSON file in `notebooks/records/`: settings, history, result and machine of one
run, sealed with a hash. Only `record` writes one; the table is only written by code.

    python -m darts_lib.records RUN_FOLDER [RUN_FOLDER ...]    record runs, then rewrite the tables
"""

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from darts_lib.cost.complexity import count_parameters, multiply_adds
from darts_lib.derivation import genotypes_of
from darts_lib.drawing.cell_plots import search_gif
from darts_lib.engine.command_line import clone_with, path_argument, run_command
from darts_lib.engine.files import is_there
from darts_lib.engine.folder import read_history, read_json, write_json
from darts_lib.engine.opening import stored_config, stored_settings
from darts_lib.engine.progress import duration
from darts_lib.engine.refusals import SettingsError, one_line, unknown
from darts_lib.engine.settings import RunConfig, project_root
from darts_lib.genotype import PUBLISHED, Genotype
from darts_lib.network import Network
from darts_lib.recurrent.retrain import RecurrentRetrainConfig
from darts_lib.recurrent.search import RecurrentSearchConfig
from darts_lib.retrain import RetrainConfig
from darts_lib.search import SearchConfig
from darts_lib.tools.markdown import put_between_marks, table
from darts_lib.transfer import ImageNetRetrainConfig

FIELDS = ("name", "kind", "library", "settings", "history", "result", "sha256")

KINDS: dict[str, type[RunConfig]] = {
    config.KIND: config
    for config in (
        SearchConfig,
        RetrainConfig,
        ImageNetRetrainConfig,
        RecurrentSearchConfig,
        RecurrentRetrainConfig,
    )
}
"""The kinds of run that can be recorded, and the settings of each."""

PUBLISHED_ERRORS = {
    "NASNet": "2.83 % (32 channels)",
    "AmoebaNet": "3.12 %",
    "DARTS_V2": "2.76 ± 0.09 %",
    "MMRAZOR_9732": "2.68 % (normalised pools)",
}
"""Test errors on CIFAR-10 with cutout: the paper's table 1, and MMRazor's page for the last."""


def records_folder() -> Path:
    """Return the folder of the records in this project."""
    return project_root() / "notebooks" / "records"


def seal(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of settings, or of a record's content without its own seal."""
    rest = {name: value for name, value in content.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def record(run: Path, folder: Path) -> Path:
    """Write the record of a finished run folder; the file is named after the run's settings."""
    if not is_there(run / "result.json"):
        raise SettingsError(f"{run} is not a finished run; run its chapter to the end first.")
    settings = dict(stored_settings(run))
    if (kind := str(settings.pop("kind", ""))) not in KINDS:
        raise SettingsError(f"{run}: {unknown('kind of run', kind, tuple(KINDS))}")
    config = stored_config(run, KINDS[kind])  # so that what goes into the name is what it seems
    if settings.get("holdout"):
        raise SettingsError(
            f"{run} was judged on held-out training images (holdout={settings['holdout']}), which "
            "is for choosing among cells; record a retraining with holdout=0."
        )
    name = f"{kind}-{config.dataset}-seed{config.seed}-{seal(settings)[:8]}"
    content = {
        "name": name,
        "kind": kind,
        "library": str(read_json(run / "config.json").get("library")),
        "settings": settings,
        "history": [
            {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in row.items()}
            for row in read_history(run)
        ],
        "result": read_json(run / "result.json"),
    }
    _check_figures(run, content)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{name}.json", {**content, "sha256": seal(content)})
    return folder / f"{name}.json"


def _check_figures(run: Path, content: Mapping[str, Any]) -> None:
    """Refuse a run of which the tables or the picture could not be made."""
    try:
        if content["kind"] == "retrain":
            _measured_row(content, [])
        if content["kind"] == "search":
            Genotype.from_dict(content["result"]["genotype"])
            genotypes_of(content["history"])
    except Exception as error:  # a field that is absent, or is not what it should be
        raise SettingsError(
            f"{run} is damaged: its result or history lacks {one_line(error)}; run it again."
        ) from error


def read_record(file: Path) -> dict[str, Any]:
    """Read a record; one that lacks a field or was changed by hand is refused."""
    content = read_json(file)
    if set(content) != set(FIELDS):
        raise SettingsError(f"{file}: fields must be {list(FIELDS)}, not {sorted(content)}.")
    if content["sha256"] != seal(content):
        raise SettingsError(f"{file} was changed after it was written; record the run again.")
    return content


def read_records(folder: Path, kind: str = "") -> list[dict[str, Any]]:
    """Read all records of a kind, in the order of their names."""
    records = map(read_record, sorted(folder.glob("*.json")))
    return [content for content in records if kind in ("", content["kind"])]


def cell_name(genotype: Genotype, searched: Sequence[Genotype]) -> str:
    """Say where a cell comes from: published, found by a recorded search, or drawn at random."""
    other = "searched" if genotype in searched else "random"
    return next((name for name, cell in PUBLISHED.items() if cell == genotype), other)


def results_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the Markdown ledger: a row for each recorded retraining, then what was not run."""
    searches = [r for r in records if r["kind"] == "search"]
    searched = [Genotype.from_dict(r["result"]["genotype"]) for r in searches]
    rows = [_measured_row(r, searched) for r in records if r["kind"] == "retrain"]
    done = {row["cell"] for row in rows if row["recipe"].startswith("cifar10, paper")}
    return table(rows + [_missing_row(name) for name in PUBLISHED_ERRORS if name not in done])


def _measured_row(content: Mapping[str, Any], searched: Sequence[Genotype]) -> dict[str, str]:
    settings, result = content["settings"], content["result"]
    error = 1 - result["test_accuracy"]
    deviation = (error * (1 - error) / result["test_images"]) ** 0.5
    name = cell_name(Genotype.from_dict(result["genotype"]), searched)
    dataset, scale = settings["dataset"], settings["scale"]
    published = PUBLISHED_ERRORS if (dataset, scale) == ("cifar10", "paper") else {}
    return {
        "cell": name,
        "recipe": f"{dataset}, {scale}, {settings['epochs']} epochs, seed {settings['seed']}",
        "parameters": f"{result['parameters']:,}",
        "multiply-adds": f"{result['multiply_adds'] / 1e6:.2f} M",
        "top-1 error": f"{100 * error:.1f} ± {100 * deviation:.1f} %",
        "top-5 error": f"{100 * (1 - result['test_top5']):.1f} %",
        "time": duration(3600 * result["hours"]),
        "machine": f"{result['machine']['device']}, torch {result['machine']['torch']}",
        "published error": published.get(name, "none"),
    }


def _missing_row(name: str) -> dict[str, str]:
    net = Network(PUBLISHED[name])
    return {
        "cell": name,
        "recipe": "cifar10, paper, 600 epochs",
        "parameters": f"{count_parameters(net):,}",
        "multiply-adds": f"{multiply_adds(net, (3, 32, 32)) / 1e6:.2f} M",
        "top-1 error": "not run",
        "published error": PUBLISHED_ERRORS[name],
    }


def benchmark_tables(folder: Path) -> str:
    """Return the recorded benchmarks' tables, folded by machine; the first machine's are open."""
    parts: list[str] = []
    for file in sorted(folder.glob("*.json"), key=lambda file: file.stem):
        content = read_json(file)
        where = ", ".join(f"{key}: {value}" for key, value in content["machine"].items())
        fold = "<details>" if parts else "<details open>"
        parts.append(f"{fold}<summary>On {where}</summary>")
        parts += [table(rows) for name, rows in content.items() if name != "machine" and rows]
        parts.append("</details>")
    return "\n\n".join(parts) or "not run"


def main(arguments: Sequence[str]) -> None:
    """Record the given runs; rewrite the README's table and picture, and the tables of speed."""
    parser = argparse.ArgumentParser(prog="python -m darts_lib.records", description=main.__doc__)
    parser.add_argument("runs", nargs="*", type=path_argument, metavar="RUN_FOLDER")
    runs = parser.parse_args(arguments).runs
    root, folder = clone_with("README.md", "docs/speed.md"), records_folder()
    for run in runs:
        print(record(run, folder))
    put_between_marks(root / "README.md", "results", results_table(read_records(folder)))
    tables = benchmark_tables(folder / "benchmarks")
    put_between_marks(root / "docs" / "speed.md", "benchmark", tables)
    for search in read_records(folder, "search")[:1]:
        search_gif(genotypes_of(search["history"]), folder / "search.gif", first=1)


if __name__ == "__main__":
    run_command(main)
