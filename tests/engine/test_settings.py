"""The base configuration: its refusals, its scales, and the folders that it names."""

import contextlib
import io
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fuzz_tools import Patch, refusal_of
from IPython.core.interactiveshell import InteractiveShell

from darts_lib.engine import settings
from darts_lib.engine.opening import default_folder
from darts_lib.engine.settings import RunConfig, data_root, project_root, runs_root
from darts_lib.search import SearchConfig

ROOT = Path(__file__).resolve().parents[2]


def config(**given: object) -> RunConfig:
    return RunConfig.create(**{"scale": "laptop", "dataset": "digits", **given})


@pytest.mark.parametrize(("name", "known"), [
    ("CIFAR-10", "cifar10"), ("cifar_100", "cifar100"), ("Fashion MNIST", "fashion_mnist"),
    ("SVHN", "svhn"), ("Digits", "digits"), ("Folder", "folder"),
])  # fmt: skip
def test_a_data_set_is_known_however_it_is_spelt(name: str, known: str) -> None:
    assert config(dataset=name).dataset == known
    assert config(dataset=name).line == config(dataset=known).line


def test_another_projects_file_is_not_taken_for_ours(tmp_path: Path, monkeypatch: Patch) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "another"\n')
    monkeypatch.chdir(tmp_path)
    assert project_root() != tmp_path
    for content in (b'name = "caf\xe9"', "é".encode("utf-16"), b"\0" * 9):  # and never read as ours
        (tmp_path / "pyproject.toml").write_bytes(content)
        assert project_root() != tmp_path
    monkeypatch.setattr(settings, "__file__", str(tmp_path / "site-packages" / "settings.py"))
    assert project_root() == tmp_path, "nowhere in a project, so the current folder"


def test_the_environment_overrides_the_roots_and_a_setting_that(monkeypatch: Patch) -> None:
    monkeypatch.setenv("DARTS_LIB_RUNS", "/r")
    monkeypatch.setenv("DARTS_LIB_DATA", "/d")
    assert (runs_root(), data_root(), config().data_folder) == (Path("/r"), Path("/d"), Path("/d"))
    assert config(data_root="/somewhere").data_folder == Path("/somewhere")
    monkeypatch.delenv("DARTS_LIB_RUNS")
    monkeypatch.delenv("DARTS_LIB_DATA")
    assert (runs_root(), data_root()) == (ROOT / "runs", ROOT / "data")


def test_run_and_data_folders_are_the_same_from_every_folder_of_the_project(
    monkeypatch: Patch, tmp_path: Path
) -> None:
    """Of nteract/papermill#316."""
    root, places = project_root(), set()
    for folder in (tmp_path, root, root / "notebooks"):
        monkeypatch.chdir(folder)
        places.add((project_root(), default_folder(config()), config().data_folder))
    assert len(places) == 1


@pytest.mark.parametrize(("given", "message"), [
    ({"epochs": "two"}, "epochs='two': must be a whole number"),
    ({"epochs": -1}, "epochs=-1: must be at least 1, or 0 for the scale's own"),
    ({"batch_size": 1}, "batch_size=1: must be at least 2, or 0 for the scale's own"),
    ({"max_steps": -1}, "max_steps=-1: must be at least 0"),
    ({"threads": 2000}, "threads=2000: must be at most 1024"),
    ({"seed": 2**31}, "seed=2147483648: must be less than 2147483648"),
    ({"scale": "big"}, "scale='big': must be 'auto', 'laptop' or 'paper'"),
    ({"resume": "maybe"}, "resume='maybe': must be true or false"),
    ({"run_dir": 7}, "run_dir=7: must be a text"),
    ({"image_size": 1e400}, "image_size=inf: must be a finite number"),
    ({"epochs": "a", "max_steps": -1},
     "epochs='a': must be a whole number; max_steps=-1: must be at least 0"),
    ({"dataset": "digit"}, "unknown dataset 'digit'; did you mean 'digits'?"),
    ({"dataset": "cifar"}, "unknown dataset 'cifar'; did you mean 'cifar10'?"),
    ({"dataset": "/"}, "dataset is 'folder', and this is its data_root: '/'"),
    ({"epoch": 1}, "unknown setting 'epoch'; did you mean 'epochs'?"),
])  # fmt: skip
def test_a_refusal_says_what_may_be(given: dict[str, object], message: str) -> None:
    assert refusal_of(lambda: config(**given)) == message


def test_a_refusal_says_what_there_is() -> None:
    refusal_of(lambda: config(zzzzzz=1), "known: scale, dataset")
    refusal_of(lambda: config(device="mps"), "device 'mps' is not there")
    refusal_of(lambda: config(graph="on", device="cpu"), "graph='on' needs CUDA, not 'cpu'")


@pytest.mark.parametrize("switch", ["amp", "compile", "graph"])
def test_a_switch_that_is_no_word_is_refused_with_the_three_words(switch: str) -> None:
    """YAML's `off` is False, papermill's `-p amp false` a text that a condition takes for true."""
    for given in (False, "false", 1, "yes"):
        message = refusal_of(lambda given=given: config(**{switch: given}))
        assert message == f"{switch}={given!r}: must be 'auto', 'on' or 'off'"


def test_a_notebook_shows_a_refusal_as_one_line() -> None:
    shell = InteractiveShell()
    with io.StringIO() as said, contextlib.redirect_stdout(said):
        shell.run_cell("from darts_lib.engine.settings import RunConfig; RunConfig.create(epoch=1)")
        lines = said.getvalue().splitlines()
    assert lines == ["SettingsError: unknown setting 'epoch'; did you mean 'epochs'?"]


@pytest.mark.parametrize(("given", "name", "value"), [
    ("{epochs: '3'}", "epochs", 3), ("{epochs: 3.0}", "epochs", 3), ("{epochs: 05}", "epochs", 5),
    ("{resume: 'False'}", "resume", False), ("{resume: 'false'}", "resume", False),
    ("{resume: 'no'}", "resume", False), ("{resume: no}", "resume", False),
    ("{resume: 0}", "resume", False), ("{resume: 'true'}", "resume", True),
    ("{learning_rate: 1e-3}", "learning_rate", 0.001),  # YAML 1.1 reads this as a text
    ("{seed: 1.0e+3}", "seed", 1000), ("{amp: 'off'}", "amp", "off"),
])  # fmt: skip
def test_papermills_values_become_what_they_say(given: str, name: str, value: object) -> None:
    """Of huggingface/trl#1450; papermill reads `-y` and `-f` as YAML, `-p` as texts."""
    setting = getattr(SearchConfig.create(scale="laptop", **yaml.safe_load(given)), name)
    assert (setting, type(setting)) == (value, type(value))


class Scaled(RunConfig):
    """A configuration with a laptop preset, as searching and retraining have."""

    LAPTOP = {"epochs": 6, "dataset": "digits", "batch_size": 32}


@pytest.mark.parametrize("unset", [0, "", "auto", None])
@pytest.mark.parametrize(("scale", "own"), [
    ("laptop", (6, 32, "digits")), ("paper", (1, 64, "cifar10")),
])  # fmt: skip
def test_zero_and_empty_mean_the_scales_own(unset: object, scale: str, own: Any) -> None:
    found = Scaled.create(scale=scale, epochs=unset, batch_size=unset, dataset=unset)
    assert (found.epochs, found.batch_size, found.dataset) == own
    found = Scaled.create(scale=scale, epochs=50, dataset="svhn")
    assert (found.epochs, found.batch_size, found.dataset) == (50, own[1], "svhn")


def test_auto_is_resolved_by_the_machine(monkeypatch: Patch) -> None:
    for cuda, scale in ((False, "laptop"), (True, "paper")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.cuda, "device_count", lambda cuda=cuda: int(cuda))
        assert Scaled.create().scale == scale
        assert Scaled.create(scale="auto") == Scaled.create(scale=scale)


def test_threads_are_set_with_the_device_and_zero_leaves_them() -> None:
    torch.set_num_threads(2)
    assert config(threads=0, device="cpu").open_device() == torch.device("cpu")
    assert torch.get_num_threads() == 2
    config(threads=1).open_device()
    assert torch.get_num_threads() == 1


def test_settings_without_effect_on_the_result_do_not_matter() -> None:
    usual = config().settings_that_matter()
    for name, value in {"data_root": "/d", "run_dir": "/r", "resume": 0, "device": "cpu"}.items():
        assert config(**{name: value}).settings_that_matter() == usual
    for name, value in {"seed": 1, "epochs": 2, "batch_size": 8, "max_steps": 1}.items():
        assert config(**{name: value}).settings_that_matter() != usual
