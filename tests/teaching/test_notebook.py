"""The guard of the parameter cell, the exercises' check, and chapters that need the one before."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from darts_lib.engine.opening import default_folder
from darts_lib.engine.refusals import SettingsError
from darts_lib.retrain import RetrainConfig
from darts_lib.search import SearchConfig, SearchResult, search
from darts_lib.teaching import notebook
from darts_lib.teaching.notebook import (
    check,
    check_pictures,
    read_parameters,
    search_before,
    set_seed,
    with_searched_cell,
)

CELL = """\
epochs: int = 0  # 0: the scale's own
scale: str = "laptop"  # "laptop", "paper" or "auto"
dataset: str = ""  # "": the scale's own
resume: bool = True  # go on with an earlier run
seed: int = 0  # of everything
device: str = "auto"  # "auto", "cpu", "cuda" or "mps"
"""


def after_cells(injected: str = "") -> dict[str, Any]:
    """Return a kernel's names after the parameter cell and papermill's injected one.

    Each cell is compiled as a kernel does it: annotations and values land in one namespace.
    """
    namespace: dict[str, Any] = {"In": ["", "import math", CELL], "losses": [1.0]}
    exec(CELL, namespace)
    if injected:
        source = f"# Parameters\n{injected}\n"
        namespace["In"].append(source)
        exec(source, namespace)
    namespace["In"].append("config = read_parameters(globals(), SearchConfig)")
    return namespace


def read(injected: str = "") -> SearchConfig:
    return read_parameters(after_cells(injected), SearchConfig)


def refusal(injected: str) -> str:
    with pytest.raises(SettingsError) as caught:
        read(injected)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Parameters -------------------------------------------------------------------------------------


def test_the_cell_as_it_stands_is_the_scales_own() -> None:
    assert read() == SearchConfig.create(scale="laptop")


@pytest.mark.parametrize(
    ("injected", "name", "value"),
    [
        ("epochs = 3", "epochs", 3),
        ("epochs = 0", "epochs", SearchConfig.LAPTOP["epochs"]),
        ('epochs = ""', "epochs", SearchConfig.LAPTOP["epochs"]),
        ('dataset = ""', "dataset", "digits"),
        ('dataset = "svhn"', "dataset", "svhn"),
        ('resume = "false"', "resume", False),  # what papermill makes of -p resume false
        ('resume = "true"', "resume", True),
        ("resume = False", "resume", False),
        ("batch_size = 32", "batch_size", 32),  # a field of the configuration, not in the cell
        ("batch_size = 0", "batch_size", 64),
        ("learning_rate = 1", "learning_rate", 1.0),  # papermill's -p learning_rate 1 is an int
    ],
)
def test_an_injected_value_is_taken_for_what_it_says(
    injected: str, name: str, value: object
) -> None:
    found = getattr(read(injected), name)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("injected", "words"),
    [
        ("epoch = 1", ["unknown setting 'epoch'", "did you mean 'epochs'?"]),
        ("bach_size = 8", ["unknown setting 'bach_size'", "did you mean 'batch_size'?"]),
        ("losses = 1", ["unknown setting 'losses'"]),
        ('epochs = "abc"', ["epochs='abc'", "whole number"]),
        ("epochs = 1.5", ["epochs=1.5", "whole number"]),
        ("epochs = -2", ["epochs=-2", "at least 1, or 0 for the scale's own"]),
        ('resume = "perhaps"', ["resume='perhaps'", "true or false"]),
        ('dataset = "digit"', ["unknown dataset 'digit'", "digits"]),
        ('scale = "laptp"', ["scale='laptp'", "laptop"]),
        ('device = "tpu"', ["device 'tpu' is not known: use 'auto', 'cpu'"]),
        ('device = "cuda"', ["device 'cuda' is not there; use 'auto' or 'cpu'"]),
        ('epochs = "abc"\nseed = -1', ["epochs='abc'", "seed=-1"]),
    ],
)
def test_a_wrong_name_or_value_ends_the_notebook_in_one_line(
    injected: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    message = refusal(injected)
    assert all(word in message for word in words), message


def test_a_refused_notebook_starts_no_run_folder(runs_root: Path) -> None:
    refusal("epoch = 1")
    assert list(runs_root.iterdir()) == []


def test_only_annotated_and_injected_names_are_parameters() -> None:
    namespace = after_cells("epochs = 2")
    namespace.update(learning_rate=9.0, epoch=7, batch_size="many")
    assert read_parameters(namespace, SearchConfig) == SearchConfig.create(scale="laptop", epochs=2)


def test_a_cell_that_only_mentions_parameters_is_not_injected() -> None:
    namespace = after_cells()
    namespace["In"] += ["x = 1  # Parameters\n", "## Parameters\nx = 1", "%matplotlib inline"]
    namespace["x"] = 1
    assert read_parameters(namespace, SearchConfig) == SearchConfig.create(scale="laptop")


def test_the_last_of_two_injected_cells_wins() -> None:
    namespace = after_cells("epochs = 2")
    namespace["In"].append("# Parameters\nepochs = 4\n")
    namespace["epochs"] = 4
    assert read_parameters(namespace, SearchConfig).epochs == 4


def test_annotations_are_found_where_python_computes_them_late() -> None:
    namespace = after_cells()
    del namespace["In"]
    namespace.pop("__annotations__", None)
    namespace["__annotate__"] = lambda _: {"epochs": int, "scale": str}  # Python 3.14
    assert read_parameters(namespace, SearchConfig) == SearchConfig.create(scale="laptop")


def test_without_ipython_the_annotations_are_enough() -> None:
    namespace = after_cells()
    del namespace["In"]
    namespace["epochs"] = 5
    assert read_parameters(namespace, SearchConfig).epochs == 5


def test_an_unknown_cell_is_refused_by_the_retraining_guard() -> None:
    namespace = after_cells('genotype = "DARTS_V3"')
    with pytest.raises(SettingsError, match=r"unknown genotype 'DARTS_V3': did you mean 'DARTS_V"):
        read_parameters(namespace, RetrainConfig)


# Exercises, seeds, memory -----------------------------------------------------------------------


def must_be_four(attempt: int) -> None:
    if attempt != 4:
        raise AssertionError("two and two are not that; did you add one?")


@pytest.mark.parametrize(
    ("attempt", "said"),
    [
        (None, "Not attempted yet: replace None with your own answer, then run again.\n"),
        (5, "Not yet: two and two are not that; did you add one?\n"),
        (4, "Correct.\n"),
        (0, "Not yet: two and two are not that; did you add one?\n"),
    ],
)
def test_an_attempt_is_answered(
    attempt: object, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    check(attempt, must_be_four)
    assert capsys.readouterr().out == said


def test_a_fault_in_the_attempt_itself_is_told_with_its_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def attempt(x: float) -> float:
        half = x / 0
        return half

    check(attempt, lambda function: function(3))
    said = "Not yet: ZeroDivisionError: division by zero\nin your line: half = x / 0\n"
    assert capsys.readouterr().out == said


def test_an_attempt_that_is_no_function_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    check(3, lambda function: function(3))
    assert capsys.readouterr().out == "Not yet: TypeError: 'int' object is not callable\n"


def test_one_seed_sets_all_three_generators() -> None:
    def draws() -> list[float]:
        set_seed(5)
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]

    assert draws() == draws()


# Chapters that need the one before --------------------------------------------------------------


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> list[SearchConfig]:
    """Make laptop searches tiny; return the list of those that were asked for."""
    asked: list[SearchConfig] = []
    small = {"channels": 2, "layers": 1, "nodes": 1, "epochs": 1, "max_steps": 1, "batch_size": 8}
    monkeypatch.setattr(SearchConfig, "LAPTOP", {"dataset": "digits", **small})

    def asking(config: SearchConfig) -> SearchResult:
        asked.append(config)
        return search(config)

    monkeypatch.setattr(notebook, "search", asking)
    return asked


def test_on_a_laptop_a_missing_search_is_made_and_later_read_back(
    tiny: list[SearchConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    config = RetrainConfig.create(scale="laptop", genotype="", seed=3)
    found = search_before(config)
    assert found.path == default_folder(tiny[0])
    assert (tiny[0].seed, tiny[0].dataset, tiny[0].scale) == (3, "digits", "laptop")
    assert (found.path / "result.json").exists()
    capsys.readouterr()
    again = search_before(SearchConfig.create(scale="laptop", seed=3))
    assert "finished already" in capsys.readouterr().out
    assert (again.path, again.genotype) == (found.path, found.genotype)


def test_chapter_fours_own_settings_find_chapter_threes_default_folder() -> None:
    chapter3 = SearchConfig.create(scale="laptop")
    chapter5 = RetrainConfig.create(scale="laptop", genotype="")
    shared = ("scale", "dataset", "data_root", "image_size", "max_images", "seed", "device")
    found = SearchConfig.create(**chapter5.model_dump(include=set(shared)))
    assert default_folder(found) == default_folder(chapter3)


def test_at_paper_scale_a_missing_search_is_not_made_but_its_command_told(
    tiny: list[SearchConfig],
) -> None:
    with pytest.raises(SettingsError) as caught:
        search_before(RetrainConfig.create(scale="paper", genotype=""))
    assert "papermill notebooks/03_search.ipynb" in str(caught.value)
    assert "-p epochs 50" in str(caught.value)
    assert tiny == []


def test_a_named_folder_is_read_whatever_its_settings(
    tmp_path: Path, tiny: list[SearchConfig]
) -> None:
    made = search(SearchConfig.create(scale="laptop", seed=9, run_dir=str(tmp_path / "mine")))
    found = search_before(SearchConfig.create(scale="paper"), str(tmp_path / "mine"))
    assert found.genotype == made.genotype
    assert tiny == []


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_a_folder_without_a_finished_search_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match="not the folder of a finished search; run chapter 03"):
        search_before(SearchConfig.create(scale="laptop"), name)


def test_an_empty_genotype_is_filled_by_the_search(tiny: list[SearchConfig]) -> None:
    filled = with_searched_cell(RetrainConfig.create(scale="laptop", genotype=""))
    assert filled.cell == search_before(filled).genotype
    assert len(tiny) == 2


def test_a_named_genotype_needs_no_search(tiny: list[SearchConfig]) -> None:
    config = RetrainConfig.create(scale="laptop", genotype="DARTS_V1")
    assert with_searched_cell(config) is config
    assert tiny == []


# Pictures of one's own --------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Return a folder of 3 classes with 20 pictures each that nobody could open."""
    for name in "abc":
        (tmp_path / "own" / name).mkdir(parents=True)
        for number in range(20):
            (tmp_path / "own" / name / f"{number}.png").touch()
    return tmp_path / "own"


@pytest.mark.parametrize(
    ("kind", "given", "largest"),
    [
        (SearchConfig, {}, 24),  # a fifth of 60 is for the test, half of the rest for the weights
        (SearchConfig, {"max_images": 30}, 15),
        (RetrainConfig, {"genotype": "random"}, 48),
        (RetrainConfig, {"genotype": "random", "holdout": 0.25}, 36),
    ],
)
def test_too_few_pictures_are_refused_before_the_lesson(
    kind: type[SearchConfig], given: dict[str, Any], largest: int, own: Path
) -> None:
    common = {"scale": "laptop", "dataset": "folder", "data_root": str(own), **given}
    check_pictures(kind.create(**common, batch_size=largest))
    with pytest.raises(SettingsError, match=f"use a batch_size of {largest} or less"):
        check_pictures(kind.create(**common, batch_size=largest + 1))


def test_a_misspelt_folder_of_pictures_is_refused_before_the_lesson(tmp_path: Path) -> None:
    config = SearchConfig.create(scale="laptop", dataset="folder", data_root=str(tmp_path / "no"))
    with pytest.raises(SettingsError, match="the folder of pictures .* is not there"):
        check_pictures(config)
    check_pictures(SearchConfig.create(scale="laptop"))
