"""Records of runs: sealed, complete, and the README's table is what they say."""

import shutil
from pathlib import Path

import pytest
from fuzz_tools import Patch, refusal_of

from darts_lib.engine.folder import CHECKPOINTS, read_json, write_json
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


def without_checkpoints(run: Path) -> None:
    """Remove what holds the settings too, and against config.json."""
    for name in CHECKPOINTS:
        (run / name).unlink(missing_ok=True)


def test_what_is_unfinished_or_was_held_out_is_not_recorded(tmp_path: Path, run: Path) -> None:
    refusal_of(lambda: record(tmp_path, tmp_path), "not a finished run")
    shutil.copytree(run, tmp_path / "run")
    config = read_json(run / "config.json")
    config["settings"]["holdout"] = 0.5
    write_json(tmp_path / "run" / "config.json", config)
    without_checkpoints(tmp_path / "run")
    refusal_of(lambda: record(tmp_path / "run", tmp_path), "judged on held-out training images")


@pytest.mark.parametrize(("file", "name", "value", "words"), [
    ("config", "kind", "../../mine", "unknown kind of run '../../mine'"),
    ("config", "kind", ["search"], "unknown kind of run"),
    ("config", "kind", "search", "unknown setting"),
    ("config", "dataset", "../mine", "unknown dataset '../mine'"),
    ("config", "seed", "/mine", "seed='/mine': must be a whole number"),
    ("result", "test_accuracy", None, "is damaged: its result or history lacks"),
    ("result", "genotype", {}, "is damaged: its result or history lacks"),
])  # fmt: skip
def test_what_is_no_field_of_a_run_is_not_recorded(
    file: str, name: str, value: object, words: str, run: Path, tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / f"{file}.json"
    content = read_json(path)
    (content["settings"] if file == "config" else content)[name] = value
    write_json(path, content)
    without_checkpoints(tmp_path / "run")
    refusal_of(lambda: record(tmp_path / "run", tmp_path / "records"), words)
    assert not (tmp_path / "records").exists()


def test_records_are_written_in_a_clone_alone(
    tmp_path: Path, run: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr("darts_lib.engine.command_line.project_root", lambda: tmp_path)
    refusal_of(lambda: records.main([str(run)]), "README.md is missing", "in a clone")
    assert not (tmp_path / "notebooks").exists()


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
