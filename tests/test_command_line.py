"""`python -m darts_lib.search CONFIG.json`: which run is meant, and what is said of it."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from darts_lib import retrain as retraining
from darts_lib import search as searching
from darts_lib.command_line import read_config, run_from_file
from darts_lib.refusals import SettingsError
from darts_lib.retrain import RetrainConfig, retrain
from darts_lib.run_files import read_history
from darts_lib.search import SearchConfig, search

TINY = {"scale": "laptop", "channels": 2, "layers": 3, "nodes": 2, "batch_size": 8}
TINY |= {"epochs": 1, "max_steps": 1, "device": "cpu", "order": 1}

Run = Callable[[Path], str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs the search command on a path and returns what it printed."""

    def run(path: Path) -> str:
        monkeypatch.setattr(sys, "argv", ["search", str(path)])
        run_from_file("search", SearchConfig, search, searching.summary)
        return capsys.readouterr().out

    return run


def test_a_run_folder_or_its_config_means_that_run(tmp_path: Path, run: Run) -> None:
    """The settings in a run folder name no folder, so the run would be made again elsewhere."""
    settings, folder = tmp_path / "mine.json", tmp_path / "run"
    settings.write_text(json.dumps({**TINY, "run_dir": str(folder)}))
    run(settings)
    for path in (folder, folder / "config.json"):
        assert read_config(path, SearchConfig).run_dir == str(folder)
        assert f"finished already; read back from {folder}" in run(path)
    assert len(read_history(folder)) == 1


def test_a_run_folder_is_told_where_its_pictures_are(tmp_path: Path) -> None:
    content = {"format": 1, "settings": {"kind": "search", **TINY, "dataset": "folder"}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    found = read_config(tmp_path, SearchConfig, data_root="/my/pictures")
    assert (found.data_root, found.run_dir) == ("/my/pictures", str(tmp_path))


def test_a_run_of_another_kind_is_told_apart(tmp_path: Path) -> None:
    content = {"format": 1, "settings": {"kind": "search", **TINY}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert read_config(tmp_path, SearchConfig, name="search").channels == 2
    with pytest.raises(SettingsError, match="a run of the kind 'search', not 'retrain'"):
        read_config(tmp_path, RetrainConfig, name="retrain")


def test_a_file_of_settings_names_no_folder_of_itself(tmp_path: Path) -> None:
    for content in (TINY, {"settings": TINY}):
        (tmp_path / "config.json").write_text(json.dumps(content))
        assert read_config(tmp_path / "config.json", SearchConfig).run_dir == ""


def test_a_folder_without_settings_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"config\.json cannot be read"):
        read_config(tmp_path, SearchConfig)


def test_the_command_says_where_it_works_what_it_found_and_what_is_next(
    tmp_path: Path, run: Run, runs_root: Path
) -> None:
    settings = tmp_path / "mine.json"
    settings.write_text(json.dumps(TINY))
    first, *_, cell, proxy, following = run(settings).splitlines()
    (folder,) = runs_root.glob("search-*")
    assert first == f"run folder: {folder}"
    assert cell == f"cell: {search(read_config(folder, SearchConfig)).genotype}"
    assert proxy.startswith("its supernet: ")
    assert f'{{"genotype": "{folder}"}}' in following


def test_a_retraining_says_its_error_and_where_its_weights_are(tmp_path: Path) -> None:
    given = {"scale": "laptop", "channels": 2, "layers": 2, "epochs": 1, "max_steps": 1}
    config = RetrainConfig.create(**given, genotype="random", run_dir=str(tmp_path / "run"))
    result = retrain(config)
    said = retraining.summary(result)
    assert f"on 360 test images: top-1 {1 - result.test_accuracy:.2%}, top-5 " in said
    assert Path(said.rpartition(": ")[2]).is_file()
