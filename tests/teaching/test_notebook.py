"""The guard of the parameter cell, the exercises' check, and chapters that need the one before."""

import json
import os
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzz_tools import Patch, Printed, refusal_of
from PIL import Image

from darts_lib.engine.opening import default_folder
from darts_lib.recurrent.search import RecurrentSearchConfig
from darts_lib.retrain import RetrainConfig
from darts_lib.search import SearchConfig, SearchResult, search
from darts_lib.teaching import notebook
from darts_lib.teaching.notebook import (
    check_pictures,
    check_run,
    figure_folder,
    read_parameters,
    search_before,
)
from darts_lib.transfer import ImageNetRetrainConfig

CELL = """\
epochs: int = 0  # 0: the scale's own
scale: str = "laptop"  # "laptop", "paper" or "auto"
dataset: str = ""  # "": the scale's own
resume: bool = True  # go on with an earlier run
seed: int = 0  # of everything
device: str = "auto"  # "auto", "cpu", "cuda" or "mps"
"""
GUARD = "config = read_parameters(globals(), SearchConfig, trains=True)"


def run(*cells: str, namespace: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run cells as a kernel does: sources in `In`, annotations and values in one namespace."""
    if namespace is None:
        namespace = {"read_parameters": read_parameters, "SearchConfig": SearchConfig}
        namespace |= {"In": ["", "import math"], "losses": [1.0]}
    for cell in cells:
        namespace["In"].append(cell)
        exec(compile(cell, "cell", "exec", dont_inherit=True), namespace)
    return namespace


def read(*injected: str) -> Any:
    """Return the configuration of the cell with these cells injected."""
    return run(CELL, *(f"# Parameters\n{source}\n" for source in injected), GUARD)["config"]


def test_the_cell_as_it_stands_is_the_scales_own_and_an_injected_value_is_what_it_says() -> None:
    assert read() == SearchConfig.create(scale="laptop")
    found = read('epochs = 3\nresume = "false"\nbatch_size = 32\nlearning_rate = 1')
    assert (found.epochs, found.resume, found.batch_size) == (3, False, 32)
    assert type(found.learning_rate) is float
    namespace = run(CELL, '# Parameters\ngenotype = "DARTS_V3"')
    words = "unknown genotype 'DARTS_V3': did you mean 'DARTS_V"
    refusal_of(partial(read_parameters, namespace, RetrainConfig), words)


def test_a_wrong_parameter_ends_the_notebook_in_a_line(monkeypatch: Patch, runs_root: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for injected, *words in (
        ("epoch = 1", "unknown setting 'epoch'", "did you mean 'epochs'?"),
        ("losses = 1", "unknown setting 'losses'"),
        ('device = "cuda"', "device 'cuda' is not there; use 'auto' or 'cpu'"),
        ('epochs = "abc"\nseed = -1', "epochs='abc'", "whole number", "seed=-1"),
    ):
        refusal_of(partial(read, injected), *words)
    assert list(runs_root.iterdir()) == [], "no run folder is started"


def test_only_annotated_and_injected_names_are_parameters() -> None:
    plain = ("learning_rate = 9.0; epoch = 7; batch_size = 'many'", "x = 1  # Parameters\n")
    assert run(CELL, *plain, "## Parameters\nx = 1", GUARD)["config"] == read()
    assert read("epochs = 2", "epochs = 4").epochs == 4, "the last injected cell counts"


@pytest.mark.parametrize("late", [False, True])
def test_without_ipython_the_annotations_are_enough(late: bool) -> None:
    namespace = run(CELL)
    del namespace["In"]
    namespace["epochs"] = 5
    if late:  # Python 3.14 computes them when they are asked for
        kinds = namespace.pop("__annotations__", {})
        namespace["__annotate__"] = lambda _: kinds
    assert read_parameters(namespace, SearchConfig).epochs == 5


def test_a_parameter_that_was_put_right_is_right_in_the_same_kernel() -> None:
    kernel = run()
    run_on = partial(run, namespace=kernel)
    refusal_of(partial(run_on, CELL, "# Parameters\nepoch = 1\n", GUARD), "unknown setting 'epoch'")
    refusal_of(partial(run_on, f"{CELL}layer: int = 2", GUARD), "unknown setting 'layer'")
    run_on("answer: int = 3")  # a reader's own annotation
    assert run_on(f"{CELL}layers: int = 2", GUARD)["config"].layers == 2
    run_on(CELL, "# Parameters\nlayers = 4\nchannels = 8\n", GUARD)
    config = run_on(CELL, "# Parameters\nlayers = 4\n", GUARD)["config"]
    assert (config.layers, config.channels) == (4, 4)
    assert run_on("losses = [2.0]", GUARD)["config"].layers == 4, "the guard alone, after others"


def must_be_four(attempt: int) -> None:
    if attempt != 4:
        raise AssertionError("two and two are not that; did you add one?")


def divides_by_zero(x: float) -> float:
    half = x / 0
    return half


def of_three(function: Any) -> None:
    function(3)


@pytest.mark.parametrize(("attempt", "test", "said"), [
    (None, must_be_four, "Not attempted yet: replace None with your own answer, then run again."),
    (0, must_be_four, "Not yet: two and two are not that; did you add one?"),
    (4, must_be_four, "Correct."),
    (divides_by_zero, of_three,
     "Not yet: ZeroDivisionError: division by zero\nin your line: half = x / 0"),
    (3, of_three, "Not yet: TypeError: 'int' object is not callable"),
])  # fmt: skip
def test_an_attempt_is_answered(attempt: object, test: Any, said: str, capsys: Printed) -> None:
    notebook.check(attempt, test)
    assert capsys.readouterr().out == f"{said}\n"


def test_one_seed_sets_all_three_generators() -> None:
    def draws() -> list[float]:
        notebook.set_seed(5)
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]

    assert draws() == draws()


@pytest.fixture
def tiny(monkeypatch: Patch) -> list[SearchConfig]:
    """Make laptop searches tiny; return the list of those that were asked for."""
    asked: list[SearchConfig] = []
    small = {"channels": 2, "layers": 1, "nodes": 1, "epochs": 1, "max_steps": 1, "batch_size": 8}
    monkeypatch.setattr(SearchConfig, "LAPTOP", {"dataset": "digits", **small})

    def asking(config: SearchConfig) -> SearchResult:
        asked.append(config)
        return search(config)

    monkeypatch.setattr(notebook, "search", asking)
    return asked


def test_a_laptop_makes_a_missing_search_once(tiny: list[SearchConfig], capsys: Printed) -> None:
    config = RetrainConfig.create(scale="laptop", genotype="", seed=3)
    found = search_before(config)
    assert found.path == default_folder(tiny[0])
    assert found.path == default_folder(SearchConfig.create(scale="laptop", seed=3)), "chapter 03's"
    assert (tiny[0].seed, tiny[0].dataset, tiny[0].scale) == (3, "digits", "laptop")
    assert (found.path / "result.json").exists()
    capsys.readouterr()
    again = search_before(SearchConfig.create(scale="laptop", seed=3))
    assert "finished already" in capsys.readouterr().out
    assert (again.path, again.genotype) == (found.path, found.genotype)


def test_a_named_folder_is_read_as_it_is_and_the_papers_search_is_not_made(
    tmp_path: Path, tiny: list[SearchConfig]
) -> None:
    words = ("papermill notebooks/03_search.ipynb", "-p epochs 50")
    refusal_of(partial(search_before, RetrainConfig.create(scale="paper", genotype="")), *words)
    made = search(SearchConfig.create(scale="laptop", seed=9, run_dir=str(tmp_path / "mine")))
    found = search_before(SearchConfig.create(scale="paper"), str(tmp_path / "mine"))
    assert (found.genotype, tiny) == (made.genotype, [])
    for folder in (tmp_path, tmp_path / "nowhere"):
        wrong = partial(search_before, SearchConfig.create(scale="laptop"), str(folder))
        refusal_of(wrong, "not the folder of a finished search; run chapter")


def test_an_empty_genotype_is_filled_by_the_search(tiny: list[SearchConfig]) -> None:
    named = RetrainConfig.create(scale="laptop", genotype="DARTS_V1")
    assert notebook.with_searched_cell(named) is named
    assert tiny == []
    filled = notebook.with_searched_cell(RetrainConfig.create(scale="laptop", genotype=""))
    assert filled.cell == search_before(filled).genotype
    assert len(tiny) == 2


def test_too_few_pictures_are_refused_before_the_lesson(tmp_path: Path) -> None:
    for number in range(60):  # 3 classes with 20 pictures each
        (tmp_path / "own" / f"class {number % 3}").mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2)).save(tmp_path / "own" / f"class {number % 3}" / f"{number}.png")
    common = {"scale": "laptop", "dataset": "folder", "data_root": str(tmp_path / "own")}
    kinds: list[tuple[type[SearchConfig | RetrainConfig], dict[str, Any], int]] = [
        (SearchConfig, {}, 24),  # a fifth of 60 is for the test, half of the rest for the weights
        (SearchConfig, {"max_images": 30}, 15),
        (RetrainConfig, {"genotype": "random"}, 48),
        (RetrainConfig, {"genotype": "random", "holdout": 0.25}, 36),
    ]
    for kind, given, largest in kinds:
        check_pictures(kind.create(**common, **given, batch_size=largest))
        config = kind.create(**common, **given, batch_size=largest + 1)
        refusal_of(partial(check_pictures, config), f"use a batch_size of {largest} or less")
    misspelt = SearchConfig.create(**{**common, "data_root": str(tmp_path / "no")})
    refusal_of(partial(check_pictures, misspelt), "the folder of pictures", "is not there")
    check_pictures(SearchConfig.create(scale="laptop"))
    bad = tmp_path / "own" / "class 1" / "bad.png"
    bad.write_text("no picture")
    refusal_of(
        partial(read, f"dataset = 'folder'; data_root = {str(tmp_path / 'own')!r}"), str(bad)
    )


def test_what_refuses_a_run_refuses_its_chapter_at_the_head(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    """Another run in the folder, one that cannot be written, texts and pictures that are absent."""
    path = tmp_path / "run"
    config = SearchConfig.create(scale="laptop", run_dir=str(path))
    (tmp_path / "cut" / "train").mkdir(parents=True)
    gone = {"scale": "laptop", "dataset": "folder", "data_root": str(tmp_path / "cut")}
    imagenet = ImageNetRetrainConfig.create(**gone, genotype="DARTS_V2")
    for wrong, words in (
        (RecurrentSearchConfig.create(**gone), "train.txt is not there"),
        (imagenet, "no folder train that has a folder a class"),
        (SearchConfig.create(**gone), "class"),
    ):
        refusal_of(partial(check_run, wrong), words)
    check_run(config)
    monkeypatch.setattr("os.access", lambda _, mode: not mode & os.W_OK)
    refusal_of(partial(check_run, config), f"run_dir {path} cannot be used", "give another run_dir")
    assert not path.exists()
    path.mkdir()
    settings = {"kind": "search", **config.settings_that_matter(), "seed": 5}
    (path / "config.json").write_text(json.dumps({"format": 1, "settings": settings}))
    (path / "result.json").write_text("{}")
    refusal_of(partial(check_run, config), "seed 5 there, 0 here", "resume=False")
    assert figure_folder(path) != path, "a finished run may lie where nothing can be written"
    monkeypatch.undo()
    assert figure_folder(path) == path
