"""`python -m darts_lib.search CONFIG.json`: which run is meant, and what is said of it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzz_tools import Patch, Printed, refusal_of
from safetensors.torch import save_file

from darts_lib import retrain as retraining
from darts_lib import search as searching
from darts_lib.engine.command_line import read_config, run_command, run_from_file
from darts_lib.engine.folder import read_history
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.settings import RunConfig
from darts_lib.genotype import GenotypeError
from darts_lib.recurrent.search import load_search as load_recurrent_search
from darts_lib.retrain import RetrainConfig, evaluate_run, retrain
from darts_lib.search import SearchConfig, load_search, search
from darts_lib.transfer import ImageNetRetrainConfig

TINY = {"scale": "laptop", "channels": 2, "layers": 3, "nodes": 2, "batch_size": 8}
TINY |= {"epochs": 1, "max_steps": 1, "device": "cpu", "order": 1}

LIBRARY = Path(searching.__file__).parent
SOURCES = [*LIBRARY.glob("*.py"), *(LIBRARY / "tools").glob("*.py")]
COMMANDS = [path.stem for path in SOURCES if "__main__" in path.read_text()]

Run = Callable[[Path], str]


def write_run(path: Path, **settings: object) -> None:
    (path / "config.json").write_text(json.dumps({"format": 1, "settings": settings}))


@pytest.fixture
def run(monkeypatch: Patch, capsys: Printed) -> Run:
    """Return a function that runs the search command on a path and returns what it printed."""

    def run(path: Path) -> str:
        monkeypatch.setattr(sys, "argv", ["search", str(path)])
        run_from_file(SearchConfig, search, searching.summary)
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


@pytest.mark.parametrize("content", [TINY, {"settings": TINY}])
def test_a_file_of_settings_names_no_folder_of_itself(content: object, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert read_config(tmp_path / "config.json", SearchConfig).run_dir == ""


def test_the_run_of_a_folder_is_that_folders_and_its_data_the_commands(tmp_path: Path) -> None:
    write_run(tmp_path, kind="search", **{**TINY, "dataset": "folder", "run_dir": "../elsewhere"})
    for root in ("", "/my/pictures"):
        config = read_config(tmp_path, SearchConfig, data_root=root)
        assert (config.data_root, config.run_dir) == (root, str(tmp_path))


@pytest.mark.parametrize(("given", "config", "read", "file"), [
    ("search", "retrain", lambda path: read_config(path, RetrainConfig), "notes.txt"),
    ("search", "retrain", evaluate_run, "weights.safetensors"),
    ("imagenet", "retrain", evaluate_run, "weights.safetensors"),
    ("retrain", "search", load_search, "checkpoint.pt"),
    ("search", "recurrent-search", load_recurrent_search, "checkpoint.pt"),
])  # fmt: skip
def test_a_run_of_another_kind_is_told_apart(
    given: str, config: str, read: Callable[[Path], object], file: str, tmp_path: Path
) -> None:
    write_run(tmp_path, kind=given, scale="laptop")
    save_file({"x": torch.zeros(1)}, tmp_path / file)
    refusal_of(lambda: read(tmp_path), f"of the kind '{given}', not '{config}'; name one of")


@pytest.mark.parametrize(("name", "text", "words"), [
    (".", "", "is no run folder: it has no config.json"),
    (".", "{}", "was not written by a run"),
    (".", '{"format": 99, "settings": {}}', "of a newer darts_lib"),
    ("mine.json", "", "cannot be read (No such file or directory); name another"),
    ("config.json", '{"epochs": }', "repair it or name another"),
    ("config.json", '{"seed": 1, "epochs": 2, "seed": 3}', "has 'seed' twice"),
    ("config.json", '{"settings": {"a": [{"x": 1, "x": 1}]}}', "has 'x' twice"),
    ("config.json", '{"learning_rate": NaN}', "learning_rate=nan: must be a finite number"),
    ("config.json", '{"learning_rate": -Infinity}', "learning_rate=-inf: must be"),
    ("config.json", '{"learning_rate": 1e39}', "learning_rate=1e+39: runs compute in float32"),
    ("config.json", '{"learning_rate": 1e-50}', "learning_rate=1e-50: runs compute in float32"),
    (".", '{"format": 1, "settings": [1]}', "was not written by a run"),
    (".", '{"format": 1}', "was not written by a run"),
])  # fmt: skip
def test_what_holds_no_settings_is_named(name: str, text: str, words: str, tmp_path: Path) -> None:
    if text:
        (tmp_path / "config.json").write_text(text)
    place = () if "=" in words else (str(tmp_path),)
    refusal_of(lambda: read_config(tmp_path / name, SearchConfig), words, *place)


@pytest.mark.parametrize(("settings", "words"), [
    ({"run_dir": "a file"}, "run_dir='a file': a file is a file, not a folder; name"),
    ({"epoch": 2}, "SettingsError: unknown setting 'epoch'; did you mean 'epochs'?\n"),
])  # fmt: skip
def test_settings_that_are_wrong_end_the_program_on_one_line_before_anything_is_said(
    settings: dict[str, object], words: str, tmp_path: Path, run: Run, capsys: Printed
) -> None:
    (tmp_path / "a file").touch()
    (tmp_path / "mine.json").write_text(json.dumps({**TINY, **settings}))
    with contextlib.chdir(tmp_path), pytest.raises(SystemExit) as stopped:
        run(Path("mine.json"))
    said = capsys.readouterr()
    assert (stopped.value.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert words in said.err


@pytest.mark.parametrize(("stop", "status", "said"), [
    (None, 0, ""),
    (SettingsError("a: 1"), 2, "SettingsError: a: 1\n"),
    (GenotypeError("no\ncell"), 2, "GenotypeError: no cell\n"),
    (FloatingPointError("epoch 3"), 2, "FloatingPointError: epoch 3\n"),
    (PermissionError(13, "no", "/a"), 2, "PermissionError: [Errno 13] no: '/a'\n"),
    (ModuleNotFoundError("no sklearn"), 2, "ModuleNotFoundError: no sklearn\n"),
    (KeyboardInterrupt(), 130, "stopped; the same command goes on from what is kept, or starts "),
    (KeyboardInterrupt("kept in /a"), 130, "kept in /a\n"),
    (BrokenPipeError(), 141, ""),
    (KeyError("our fault"), None, ""),
])  # fmt: skip
def test_what_stops_a_command_is_told_in_one_line(
    stop: BaseException | None, status: int | None, said: str, capsys: Printed, monkeypatch: Patch
) -> None:
    def main(arguments: list[str]) -> None:
        if stop:
            raise stop

    monkeypatch.setattr(sys.stdout, "fileno", lambda: os.open(os.devnull, os.O_WRONLY))
    outcome = pytest.raises(SystemExit if status else type(stop)) if stop else nullcontext()
    with outcome as ended:
        run_command(main)
    assert status is None or not stop or ended.value.code == status
    printed = capsys.readouterr().err
    assert printed.startswith(said)
    assert printed.count("\n") == bool(said)


@pytest.mark.deep
@pytest.mark.skipif(sys.platform == "win32", reason="there is no such signal")
def test_ctrl_c_ends_a_command_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps({**TINY, "epochs": 900, "max_steps": 0}))
    command = [sys.executable, "-m", "darts_lib.search", str(tmp_path / "mine.json")]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # A shell's background jobs, and so whatever runs these tests there, ignore the signal.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, **pipes, preexec_fn=heard) as process:
        assert any(line.startswith("epoch ") for line in process.stdout)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert (process.returncode, said.count("\n")) == (130, 1)
    assert said.startswith("stopped; finished epochs are kept in ")


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
    result = retrain(RetrainConfig.create(**given, genotype="random", run_dir=str(tmp_path)))
    said = retraining.summary(result)
    top1, top5 = (100 * (1 - result.figures[name]) for name in ("test_accuracy", "test_top5"))
    assert f"top-1 error {top1:.2f} %, top-5 error {top5:.2f} % on 360 test images" in said
    few = replace(result, figures={**result.figures, "classes": 5})
    assert f"top-1 error {top1:.2f} % on 360 test images" in retraining.summary(few)
    assert Path(said.rpartition(": ")[2]).is_file()


@pytest.mark.deep
@pytest.mark.parametrize(("module", "kind"), [
    ("search", SearchConfig),
    ("retrain", RetrainConfig),
    ("imagenet_retrain", ImageNetRetrainConfig),
])  # fmt: skip
def test_the_help_names_the_command_and_every_setting_with_its_value(
    module: str, kind: type[RunConfig]
) -> None:
    command = [sys.executable, "-m", f"darts_lib.{module}", "--help"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert said.startswith(f"usage: python -m darts_lib.{module} [-h]")
    assert max(map(len, said.splitlines())) <= 90
    for name, field in kind.model_fields.items():
        assert f'"{name}": {json.dumps(field.default)}' in " ".join(said.split())


@pytest.mark.deep
def test_a_command_loads_what_reads_pictures_only_when_it_reads_them() -> None:
    """Loading scikit-learn and torchvision doubles the wait for `--help` or a refused setting."""
    modules = [*COMMANDS, "teaching.notebook", "recurrent.search", "recurrent.retrain"]
    code = (
        f"import importlib, sys\nfor each in {modules}:\n"
        "    importlib.import_module('darts_lib.' + each)\n"
        "print({'sklearn', 'torchvision'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
