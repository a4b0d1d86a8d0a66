"""The same seed, the same bits: in new processes, at one and two threads, with and without workers.

    python tests/engine/test_determinism.py FOLDER PICTURES first|second

makes all runs. The two processes differ in what must not matter: how Python hashes strings, and
the order of the runs.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kill_tools import CELL, differences, write_text
from test_imagenet_data import make

import darts_lib.imagenet_retrain as imagenet
import darts_lib.recurrent.retrain as recurrent_retraining
import darts_lib.recurrent.search as recurrent_search
import darts_lib.retrain as retraining
import darts_lib.search as image_search
from darts_lib.engine import settings
from darts_lib.engine.determinism import WORKSPACE, deterministic_algorithms
from darts_lib.engine.files import unpack
from darts_lib.engine.opening import default_folder, opened, stored_config
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.run_files import Row, read_json
from darts_lib.engine.settings import RunConfig
from darts_lib.recurrent.retrain_step import RecurrentRetrainConfig
from darts_lib.recurrent.search_step import RecurrentSearchConfig
from darts_lib.search_settings import SearchConfig
from darts_lib.teaching.notebook import read_parameters

COMMON = {"scale": "laptop", "device": "cpu", "epochs": 1, "max_steps": 1}
IMAGES = {**COMMON, "channels": 8, "batch_size": 32}
CELLS = {**IMAGES, "layers": 1, "nodes": 1, "max_images": 200}
TEXT = {**COMMON, "dataset": "folder", "width": 16, "batch_size": 8, "bptt": 5, "max_steps": 2}
DERIVED = {**IMAGES, "genotype": CELL, "layers": 3, "drop_path": 0.3}

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "search-1": ("search", {**CELLS, "order": 1}),
    "search-2": ("search", {**CELLS, "order": 2}),
    "retrain": ("retrain", {**DERIVED, "epochs": 2, "auxiliary": False, "cutout": 3}),
    "recurrent-search": ("recurrent_search", {**TEXT, "nodes": 2}),
    "recurrent-retrain": ("recurrent_retrain", TEXT),
    "imagenet": (
        "imagenet",
        {**DERIVED, "channels": 4, "layers": 2, "batch_size": 5, "max_steps": 2},
    ),
}
NEW = {"CUDA_VISIBLE_DEVICES": "", "OMP_WAIT_POLICY": "PASSIVE"}
"""For a new process: the GPU is hidden, and a thread that waits for another does not spin."""
RUNS = {f"{kind}-threads1": (kind, {"threads": 1}) for kind in KINDS}
RUNS |= {f"{kind}-threads2": (kind, {"threads": 2}) for kind in list(KINDS)[:4]}
RUNS |= {f"{kind}-seed1": (kind, {"threads": 1, "seed": 1}) for kind in KINDS}
RUNS |= {"imagenet-workers2": ("imagenet", {"threads": 1, "workers": 2})}


def tell_no_cost(put: Callable[[object, str, object], object]) -> None:
    """Let no run tell what it will cost: finding it takes longer than the run."""
    for module in (image_search, retraining, recurrent_search, recurrent_retraining):
        put(module, "describe", lambda run: None)


def run(kind: str, places: dict[str, str], on_epoch: Any = None, **given: Any) -> None:
    """Make a small run."""
    what, own = KINDS[kind]
    if what == "search":
        image_search.search(SearchConfig.create(**{**own, **given}), on_epoch)
    elif what == "retrain":
        retraining.retrain(retraining.RetrainConfig.create(**{**own, **given}), on_epoch)
    elif what == "imagenet":
        found = {**own, "data_root": places["pictures"], **given}
        imagenet.retrain(imagenet.ImageNetRetrainConfig.create(**found), on_epoch)
    elif what == "recurrent_search":
        found = {**own, "data_root": places["text"], **given}
        recurrent_search.search(RecurrentSearchConfig.create(**found), on_epoch)
    else:
        found = {**own, "data_root": places["text"], **given}
        recurrent_retraining.retrain(RecurrentRetrainConfig.create(**found), on_epoch)


def make_all(folder: Path, places: dict[str, str], which: str) -> None:
    """Make all runs below `folder`, the second process in the opposite order."""
    tell_no_cost(setattr)
    with contextlib.redirect_stdout(io.StringIO()):
        for name in sorted(RUNS, reverse=which == "second"):
            kind, given = RUNS[name]
            run(kind, places, run_dir=str(folder / name), **given)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the folders of pictures and of text that the runs read."""
    folder = tmp_path_factory.mktemp("data")
    write_text(folder)
    return {"text": str(folder / "text"), "pictures": str(make(folder / "pictures"))}


@pytest.fixture(scope="module")
def made(places: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the folders with all runs of two new processes."""
    folders = []
    for number, which in enumerate(("first", "second")):
        folder = tmp_path_factory.mktemp(which)
        subprocess.run(
            [sys.executable, __file__, str(folder), json.dumps(places), which],
            env={**os.environ, **NEW, "PYTHONHASHSEED": str(number)},
            check=True,
            timeout=300,
        )
        folders.append(folder)
    return folders[0], folders[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_two_new_processes_end_in_the_same_bits(name: str, made: tuple[Path, Path]) -> None:
    first, second = (folder / name for folder in made)
    assert differences(first, second) == []
    assert unpack(first / "checkpoint.pt")["threads"] == RUNS[name][1]["threads"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_another_seed_ends_in_other_bits(kind: str, made: tuple[Path, Path]) -> None:
    found = differences(made[0] / f"{kind}-threads1", made[0] / f"{kind}-seed1")
    file = "alphas.npz" if "search" in kind else "weights.safetensors"
    assert {"state", "history", "history.jsonl", "result.json", file} <= set(found)


@pytest.mark.slow
def test_the_number_of_workers_changes_no_bit(made: tuple[Path, Path]) -> None:
    assert differences(made[0] / "imagenet-threads1", made[0] / "imagenet-workers2") == []


# The switch -------------------------------------------------------------------------------------

Switches = tuple[bool, bool, bool, bool]


def switches() -> Switches:
    """Return (deterministic, only warned) of torch and (deterministic, benchmark) of cuDNN."""
    cudnn = torch.backends.cudnn
    enabled = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    return enabled, warned, cudnn.deterministic, cudnn.benchmark


ON: Switches = (True, False, True, False)


@pytest.fixture(autouse=True)
def environment_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the variable of cuBLAS away, and put it back as it was after the test."""
    monkeypatch.setenv(WORKSPACE, "")
    monkeypatch.delenv(WORKSPACE)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_run_works_with_the_switch_and_puts_it_back(
    kind: str, places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell_no_cost(monkeypatch.setattr)
    before, seen = switches(), []

    def note(row: Row) -> None:
        seen.append(switches())

    run(kind, places, note, run_dir=str(tmp_path / "on"), deterministic=True)
    assert set(seen) == {ON}
    assert switches() == before != ON
    seen.clear()
    run(kind, places, note, run_dir=str(tmp_path / "off"))
    assert set(seen) == {before}
    assert WORKSPACE not in os.environ, "there is no cuBLAS on the CPU"


def config(path: Path | str = "", **given: object) -> RunConfig:
    return RunConfig.create(scale="laptop", dataset="digits", run_dir=str(path), **given)


def test_the_switch_is_put_back_after_an_error(tmp_path: Path) -> None:
    before = switches()
    inside = []
    with pytest.raises(KeyError), opened(config(tmp_path / "run", deterministic=True)):
        raise KeyError(inside.append(switches()))
    assert inside == [ON]
    assert switches() == before


def test_what_was_set_before_is_set_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with opened(config(tmp_path / "run", deterministic=True)):
            assert switches() == ON
        assert switches() == (True, True, False, True)
        with opened(config(tmp_path / "other")):
            assert switches() == (True, True, False, True), "off: all is left alone"
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_run_that_is_refused_leaves_the_switch_alone(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file in the way")
    before = switches()
    with (
        pytest.raises(SettingsError, match="is a file; give another"),
        opened(config(tmp_path / "run", deterministic=True)),
    ):
        pass
    assert switches() == before


# cuBLAS -----------------------------------------------------------------------------------------

CUDA = torch.device("cuda")


def cuda_is_started(monkeypatch: pytest.MonkeyPatch, started: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: started)


def test_the_variable_of_cublas_is_set_before_cuda_starts_and_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda_is_started(monkeypatch, False)
    with deterministic_algorithms(True, CUDA):
        assert os.environ[WORKSPACE] == ":4096:8"
        cuda_is_started(monkeypatch, True)
    with deterministic_algorithms(True, CUDA):
        assert switches() == ON, "a second run of the same process"
    monkeypatch.setenv(WORKSPACE, ":16:8")
    with deterministic_algorithms(True, CUDA):
        assert os.environ[WORKSPACE] == ":16:8", "the reader's own choice"


@pytest.mark.parametrize("value", ["", ":0:0"])
def test_cuda_that_was_started_before_is_refused(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WORKSPACE, value)
    cuda_is_started(monkeypatch, True)
    before = switches()
    with pytest.raises(SettingsError) as caught, deterministic_algorithms(True, CUDA):
        pass
    message = str(caught.value)
    assert f"set {WORKSPACE}=:4096:8 in the environment and start the process again" in message
    assert switches() == before
    with deterministic_algorithms(False, CUDA):
        assert os.environ[WORKSPACE] == value


# Older runs -------------------------------------------------------------------------------------


def test_a_run_from_before_the_switch_goes_on(tmp_path: Path) -> None:
    """Its folder's name and its config.json are those of a run with the switch off."""
    plain = config(tmp_path / "run")
    assert "deterministic" not in plain.settings_that_matter()
    assert default_folder(config(deterministic=False)) == default_folder(config())
    with opened(plain) as folder:
        folder.finish({})
    settings = read_json(tmp_path / "run" / "config.json")["settings"]
    assert set(settings) == {"kind", *RunConfig.model_fields} - {
        *RunConfig.NO_EFFECT_ON_RESULT,
        "deterministic",
    }
    with opened(plain) as folder:
        assert folder.result() is not None, "the same run"
    assert not stored_config(tmp_path / "run", RunConfig).deterministic


def test_with_the_switch_on_it_is_another_run_and_stays_so(tmp_path: Path) -> None:
    path, on = tmp_path / "run", config(tmp_path / "run", deterministic=True)
    assert default_folder(config(deterministic=True)) != default_folder(config())
    with opened(on) as folder:
        folder.finish({})
    assert stored_config(path, RunConfig).deterministic
    with (
        pytest.raises(SettingsError, match="deterministic True there"),
        opened(config(path)),
    ):
        pass


def test_papermill_gives_it_though_no_parameter_cell_lists_it() -> None:
    cells = ["", "epochs: int = 1  # of the search", "# Parameters\ndeterministic = True\n"]
    named = {"epochs": 1, "deterministic": True, "scale": "laptop", "In": cells}
    assert read_parameters(named, SearchConfig).deterministic is True
    plain: Callable[..., SearchConfig] = SearchConfig.create
    assert plain(scale="laptop", deterministic="true").deterministic is True
    assert plain(scale="laptop").deterministic is False
    with pytest.raises(SettingsError, match="deterministic='perhaps'"):
        plain(scale="laptop", deterministic="perhaps")
    assert "deterministic" in (settings.RunConfig.__doc__ or "")


if __name__ == "__main__":
    make_all(Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3])
