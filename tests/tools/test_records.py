"""Records of runs: sealed, complete, and the README's table is what they say."""

import shutil
from pathlib import Path

import pytest
from fuzz_tools import refusal_of

from darts_lib.engine.folder import read_json, write_json
from darts_lib.engine.settings import project_root
from darts_lib.genotype import PUBLISHED
from darts_lib.retrain import RetrainConfig, retrain
from darts_lib.tools import records
from darts_lib.tools.records import FIELDS, read_record, read_records, record, results_table


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiny = {"channels": 2, "layers": 1, "epochs": 1, "max_steps": 1, "auxiliary": False}
    path = tmp_path_factory.mktemp("runs") / "tiny"
    retrain(RetrainConfig.create(scale="laptop", run_dir=str(path), **tiny))
    return path


def test_a_record_holds_the_run_and_is_sealed(run: Path, tmp_path: Path) -> None:
    file = record(run, tmp_path)
    content = read_record(file)
    assert set(content) == set(FIELDS)
    assert content["settings"]["channels"] == 2
    assert str(run) not in file.read_text(), "no path of a machine goes into the repository"
    content["result"]["test_accuracy"] = 1.0
    write_json(file, content)
    refusal_of(lambda: read_record(file), "was changed after it was written")
    write_json(file, {"name": "x"})
    refusal_of(lambda: read_record(file), "fields must be")


def test_what_is_unfinished_or_was_held_out_is_not_recorded(tmp_path: Path, run: Path) -> None:
    refusal_of(lambda: record(tmp_path, tmp_path), "not a finished run")
    shutil.copytree(run, tmp_path / "run")
    config = read_json(run / "config.json")
    config["settings"]["holdout"] = 0.5
    write_json(tmp_path / "run" / "config.json", config)
    refusal_of(lambda: record(tmp_path / "run", tmp_path), "judged on held-out training images")


def test_the_table_has_the_records_figures(run: Path, tmp_path: Path) -> None:
    record(run, tmp_path)
    found = read_records(tmp_path, "retrain")
    table, error = results_table(found), 100 * (1 - found[0]["result"]["test_accuracy"])
    for part in (f"{error:.1f} ±", "DARTS_V2", "top-5", "| 3,349,342 | 528.36 M | not run |"):
        assert part in table
    assert table.count("not run") == 4, "the published cells at full scale"
    assert records.cell_name(PUBLISHED["DARTS_V1"], []) == "DARTS_V1"


def test_the_pages_say_what_the_records_say() -> None:
    readme, speed = ((project_root() / p).read_text() for p in ("README.md", "docs/speed.md"))
    assert results_table(read_records(records.records_folder())) in readme
    assert records.benchmark_tables(records.records_folder() / "benchmarks") in speed
