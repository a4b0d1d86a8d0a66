"""The same seed, the same bits: in new processes, at one and two threads, with and without workers.

    python tests/engine/test_determinism.py FOLDER DATA first|second

makes all runs. The two processes differ in what must not matter: how Python hashes strings, and
the order of the runs.
"""

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fuzz_tools import Patch, refusal_of
from kill_tools import differences, make, write_data
from kind_tools import KINDS
from toy_run import Killed, ToyRun, kill_after, toy, toy_config

from darts_lib.engine.devices import WORKSPACE, deterministic_algorithms
from darts_lib.engine.files import unpack
from darts_lib.engine.folder import read_json
from darts_lib.engine.opening import default_folder, stored_config
from darts_lib.engine.settings import RunConfig

RUNS = {f"{kind}, {n} threads": (kind, {"threads": n}) for kind in KINDS for n in (1, 2)}
RUNS |= {"search, order 1": ("search", {"threads": 1, "order": 1})}
WORKERS = "ImageNet retraining, workers"
RUNS |= {WORKERS: ("ImageNet retraining", {"threads": 1, "workers": 2})}
NEW = {"CUDA_VISIBLE_DEVICES": "", "OMP_WAIT_POLICY": "PASSIVE"}
"""For a new process: the GPU is hidden, and a thread that waits for another does not spin."""
PATH = os.pathsep.join(map(str, Path(__file__).resolve().parents[1:3]))


def make_all(folder: Path, data: Path, which: str) -> None:
    """Make all runs below `folder`, the second process in the opposite order."""
    with contextlib.redirect_stdout(io.StringIO()):
        for name in sorted(RUNS, reverse=which == "second"):
            kind, given = RUNS[name]
            make(kind, data, run_dir=str(folder / name), device="cpu", **given)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def made(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return the folders with all runs of two new processes."""
    folders = [tmp_path_factory.mktemp(which) for which in ("first", "second")]
    for number, folder in enumerate(folders):
        env = {**os.environ, **NEW, "PYTHONPATH": PATH, "PYTHONHASHSEED": str(number)}
        command = [sys.executable, __file__, folder, data, folder.name.rstrip("0")]
        subprocess.run(command, env=env, check=True, timeout=500)
    return folders


@pytest.mark.deep
@pytest.mark.parametrize("name", RUNS)
def test_two_new_processes_end_in_the_same_bits(name: str, made: list[Path]) -> None:
    first, second = (folder / name for folder in made)
    assert differences(first, second) == []
    assert unpack(first / "checkpoint.pt")["threads"] == RUNS[name][1]["threads"]


@pytest.mark.deep
def test_the_number_of_workers_changes_no_bit(made: list[Path]) -> None:
    assert differences(made[0] / "ImageNet retraining, 1 threads", made[0] / WORKERS) == []


Switches = tuple[bool, bool, bool, bool]
ON: Switches = (True, False, True, False)


def switches() -> Switches:
    """Return (deterministic, only warned) of torch and (deterministic, benchmark) of cuDNN."""
    enabled = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    return enabled, warned, torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark


@pytest.fixture(autouse=True)
def before(monkeypatch: Patch) -> Iterator[Switches]:
    """Take the variable of cuBLAS away; after the test all is as it was before."""
    monkeypatch.setenv(WORKSPACE, "")
    monkeypatch.delenv(WORKSPACE)
    found = switches()
    yield found
    assert switches() == found != ON, "put back"


@pytest.mark.deep
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_run_works_with_the_switch_and_puts_it_back(
    kind: str, data: Path, path: Path
) -> None:
    seen: list[Switches] = []
    make(kind, data, lambda _: seen.append(switches()), run_dir=str(path), deterministic=True)
    assert set(seen) == {ON}


def test_the_switch_is_on_in_an_epoch_only_and_put_back(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    torch.use_deterministic_algorithms(True, warn_only=True)
    seen, before = list[Switches](), switches()

    def note(_: int) -> None:
        seen.append(switches())
        raise Killed

    try:
        for wanted in (True, False):
            config = toy_config(tmp_path / str(wanted), deterministic=wanted)
            with pytest.raises(Killed):
                toy(config, note)
            assert switches() == before == (True, True, False, True)
        assert seen == [ON, before]
        assert WORKSPACE not in os.environ, "there is no cuBLAS on the CPU"
    finally:
        torch.use_deterministic_algorithms(False)
        monkeypatch.undo()


CUDA = torch.device("cuda")


def test_the_variable_of_cublas_is_set_before_cuda_starts_and_stays(monkeypatch: Patch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    with deterministic_algorithms(True, CUDA):
        assert os.environ[WORKSPACE] == ":4096:8"
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with deterministic_algorithms(True, CUDA):
        assert switches() == ON, "a second run of the same process"
    monkeypatch.setenv(WORKSPACE, ":16:8")
    with deterministic_algorithms(True, CUDA):
        assert os.environ[WORKSPACE] == ":16:8", "the reader's own choice"


@pytest.mark.parametrize("value", ["", ":0:0"])
def test_cuda_that_was_started_is_refused(value: str, monkeypatch: Patch, before: Switches) -> None:
    monkeypatch.setenv(WORKSPACE, value)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    words = f"set {WORKSPACE}=:4096:8 in the environment and start the process again"
    refusal_of(lambda: deterministic_algorithms(True, CUDA).__enter__(), words)
    assert switches() == before
    with deterministic_algorithms(False, CUDA):
        assert os.environ[WORKSPACE] == value


def test_a_run_from_before_the_switch_goes_on_and_one_with_it_on_is_another(path: Path) -> None:
    """With the switch off the folder's name and its config.json are those of such a run."""
    plain, on = (toy_config(path, deterministic=given) for given in (False, True))
    assert default_folder(plain) == default_folder(toy_config()) != default_folder(on)
    for config, stored in ((plain, None), (on, True)):
        with pytest.raises(Killed):
            toy(config.model_copy(update={"resume": False}), kill_after(1))
        settings = read_json(path / "config.json")["settings"]
        assert settings.get("deterministic") is stored
        assert settings.keys() - {"kind", "deterministic"} == (
            type(plain).model_fields.keys() - RunConfig.NO_EFFECT_ON_RESULT - {"deterministic"}
        )
        assert stored_config(path, ToyRun.CONFIG).deterministic == bool(stored)
        other = on if config is plain else plain
        refusal_of(lambda other=other: toy(other), f"deterministic {stored} there")


if __name__ == "__main__":
    make_all(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
