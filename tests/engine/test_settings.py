"""The base configuration: its refusals, its scales, its folder of data."""

import contextlib
import io
from pathlib import Path

import pytest
import torch
import yaml
from fuzz_tools import refusal_of
from IPython.core.interactiveshell import InteractiveShell

from darts_lib.engine.settings import RunConfig
from darts_lib.search import SearchConfig


def config(**given: object) -> RunConfig:
    return RunConfig.create(**{"scale": "laptop", "dataset": "digits", **given})


def refusal(**given: object) -> str:
    return refusal_of(lambda: config(**given))


def test_the_data_folder_is_the_setting_or_the_projects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DARTS_LIB_DATA", str(tmp_path / "d"))
    assert config().data_folder == tmp_path / "d"
    assert config(data_root="/somewhere").data_folder == Path("/somewhere")


def test_an_absent_device_is_refused_before_any_data_are_read() -> None:
    assert "device 'mps' is not there" in refusal(device="mps")


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    assert "unknown setting 'epoch'; did you mean 'epochs'?" in refusal(epoch=1)
    assert "known: scale, dataset" in refusal(zzzzzz=1)


@pytest.mark.parametrize(("name", "value", "words"), [
    ("epochs", "two", "must be a whole number"),
    ("epochs", -1, "must be at least 1, or 0 for the scale's own"),
    ("batch_size", 1, "must be at least 2, or 0 for the scale's own"),
    ("max_steps", -1, "must be at least 0"),
    ("threads", 2000, "must be at most 1024"),
    ("seed", 2**31, "must be less than 2147483648"),
    ("scale", "big", "must be 'auto', 'laptop' or 'paper'"),
    ("resume", "maybe", "must be true or false"),
    ("run_dir", 7, "must be a text"),
])  # fmt: skip
def test_a_refusal_says_what_may_be(name: str, value: object, words: str) -> None:
    assert refusal(**{name: value}) == f"{name}={value!r}: {words}"


def test_a_notebook_shows_a_refusal_as_one_line() -> None:
    shell = InteractiveShell()
    with io.StringIO() as said, contextlib.redirect_stdout(said):
        shell.run_cell("from darts_lib.engine.settings import RunConfig; RunConfig.create(epoch=1)")
        lines = said.getvalue().splitlines()
    assert lines == ["SettingsError: unknown setting 'epoch'; did you mean 'epochs'?"]


def test_every_wrong_value_is_told_at_once() -> None:
    message = refusal(epochs="abc", batch_size=1)
    assert "epochs='abc'" in message
    assert "batch_size=1" in message


@pytest.mark.parametrize(
    ("dataset", "near"), [("digit", "digits"), ("cifar", "cifar10"), ("CIFAR-10", "")]
)
def test_an_unknown_data_set_is_refused(dataset: str, near: str) -> None:
    message = refusal(dataset=dataset)
    assert f"unknown dataset {dataset!r}; did you mean" in message
    assert near in message


@pytest.mark.parametrize(("name", "value", "texts"), [
    ("epochs", 3, ["3", 3.0]),
    ("resume", False, ["false", "False", 0]),  # papermill's -p resume false is this text
    ("resume", True, ["true"]),
    ("seed", 7, ["7"]),
])  # fmt: skip
def test_papermills_texts_become_what_they_say(
    name: str, value: object, texts: list[object]
) -> None:
    for given in texts:
        found = getattr(config(**{name: given}), name)
        assert (found, type(found)) == (value, type(value))


class Scaled(RunConfig):
    """A configuration with a laptop preset, as searching and retraining have."""

    LAPTOP = {"epochs": 6, "dataset": "digits", "batch_size": 32}


@pytest.mark.parametrize("unset", [0, "", "auto", None])
@pytest.mark.parametrize(("scale", "epochs", "batch"), [("laptop", 6, 32), ("paper", 1, 64)])
def test_zero_and_empty_mean_the_scales_own(
    unset: object, scale: str, epochs: int, batch: int
) -> None:
    found = Scaled.create(scale=scale, epochs=unset, batch_size=unset, dataset=unset)
    assert (found.epochs, found.batch_size) == (epochs, batch)
    assert found.dataset == ("digits" if scale == "laptop" else "cifar10")


def test_a_given_value_beats_the_scales_own() -> None:
    found = Scaled.create(scale="laptop", epochs=50, dataset="svhn")
    assert (found.epochs, found.dataset, found.batch_size) == (50, "svhn", 32)


def test_auto_is_resolved_by_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.parametrize(("given", "name", "value"), [
    ("{learning_rate: 1e-3}", "learning_rate", 0.001),  # YAML 1.1 reads this as a text
    ("{seed: 1.0e+3}", "seed", 1000),
    ("{resume: no}", "resume", False),
    ("{resume: 'no'}", "resume", False),
    ("{epochs: 05}", "epochs", 5),
    ("{amp: 'off'}", "amp", "off"),
])  # fmt: skip
def test_what_yaml_makes_of_a_parameter_becomes_what_was_meant(
    given: str, name: str, value: object
) -> None:
    """Of huggingface/trl#1450; papermill reads `-y` and `-f` so."""
    setting = getattr(SearchConfig.create(scale="laptop", **yaml.safe_load(given)), name)
    assert (setting, type(setting)) == (value, type(value))


@pytest.mark.parametrize("switch", ["amp", "compile", "graph"])
def test_a_switch_that_is_no_word_is_refused_with_the_three_words(switch: str) -> None:
    """YAML's `off` is False, papermill's `-p amp false` a text that a condition takes for true."""
    for given in (False, "false", 1, "yes"):
        assert refusal(**{switch: given}) == f"{switch}={given!r}: must be 'auto', 'on' or 'off'"
