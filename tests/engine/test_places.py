"""The project's root, and the folders of runs and data."""

from pathlib import Path

import pytest

from darts_lib.engine import settings
from darts_lib.engine.settings import data_root, project_root, runs_root

Patch = pytest.MonkeyPatch

ROOT = Path(__file__).resolve().parents[2]


def test_another_projects_file_is_not_taken_for_ours(tmp_path: Path, monkeypatch: Patch) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "another"\n')
    monkeypatch.chdir(tmp_path)
    assert project_root() != tmp_path
    monkeypatch.setattr(settings, "__file__", str(tmp_path / "site-packages" / "settings.py"))
    assert project_root() == tmp_path, "nowhere in a project, so the current folder"


def test_the_environment_overrides_the_roots(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setenv("DARTS_LIB_RUNS", str(tmp_path / "r"))
    monkeypatch.setenv("DARTS_LIB_DATA", str(tmp_path / "d"))
    assert (runs_root(), data_root()) == (tmp_path / "r", tmp_path / "d")
    monkeypatch.delenv("DARTS_LIB_RUNS")
    monkeypatch.delenv("DARTS_LIB_DATA")
    assert (runs_root(), data_root()) == (ROOT / "runs", ROOT / "data")
