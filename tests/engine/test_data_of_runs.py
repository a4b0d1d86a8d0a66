"""A run and its data: compared by name before anything is loaded, and kept with the checkpoint."""

import json
from pathlib import Path
from typing import Any

import pytest
from fuzz_tools import Patch, Said, refusal_of
from toy_run import ToyConfig, ToyRun, end, kill_after, killed, toy, toy_config

from darts_lib.engine.files import pack, unpack
from darts_lib.engine.folder import CHECKPOINTS, Row, read_alphas, read_json
from darts_lib.engine.refusals import SettingsError

DATA = {"classes": ["cat", "dog"], "counts": {"train": 4, "test": 2}, "digest": {"train": "ab"}}


def give(patch: Patch, **data: object) -> None:
    """Let the toys' data be `DATA` but for `data`."""
    patch.setattr(ToyConfig, "fingerprint", lambda _: {**DATA, **data})


def rewrite(file: Path, **given: Any) -> None:
    """Change or, where given None, leave out what stands in a config.json or a checkpoint."""
    content: Row = read_json(file) if file.suffix == ".json" else unpack(file)
    content = {name: value for name, value in {**content, **given}.items() if value is not None}
    file.write_bytes(json.dumps(content).encode() if file.suffix == ".json" else pack(content))


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(("now", "told"), [
    ({"classes": ["cat", "dog", "emu"]}, "3 classes now, 2 when the run was started ('emu'"),
    ({"classes": ["cat"]}, "('dog' is gone)"),
    ({"classes": ["Dog", "cat"]}, "('Dog' is new, 'dog' is gone)"),
    ({"classes": ["dog", "cat"]}, "in another order, 'dog' is the first"),
    ({"counts": {"train": 5, "test": 2}, "digest": {"train": "cd"}}, "changed: 5 in train now, 4 "),
    ({"digest": {"train": "cd"}}, "other contents or names of the files of train"),
])  # fmt: skip
def test_other_data_are_refused_by_name(
    finished: bool, now: Row, told: str, path: Path, monkeypatch: Patch
) -> None:
    give(monkeypatch)
    config = toy_config(path) if finished else killed(path, 1)
    if finished:
        toy(config)
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    give(monkeypatch, **now)
    for call in (lambda: toy(config), lambda: ToyRun.loaded(path)):
        refusal_of(call, f"the data of the run in {path} have changed: ", told, "Give back the dat")
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    assert toy(config.model_copy(update={"resume": False})).path == path, "the way out"
    assert read_json(path / "config.json")["data"] == unpack(path / "checkpoint.pt")["data"]
    assert read_json(path / "config.json")["data"] == {**DATA, **now}


def test_a_finished_run_whose_data_are_gone_is_read_back(
    path: Path, monkeypatch: Patch, said: Said
) -> None:
    def gone(_: ToyConfig) -> Row:
        raise SettingsError("nothing is there.")

    give(monkeypatch)
    config = killed(path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(ToyConfig, "fingerprint", gone)
        refusal_of(lambda: toy(config), "nothing is there")
    toy(config)
    monkeypatch.setattr(ToyConfig, "fingerprint", gone)
    toy(config)
    assert f"data of the finished run in {path} are not compared: nothing is there." in said()


def test_a_run_of_an_older_version_is_not_compared_and_says_so(
    path: Path, monkeypatch: Patch, said: Said
) -> None:
    straight = toy(toy_config(path.with_name("straight"))).path
    config = killed(path, 2)
    rewrite(path / "config.json", data=None)
    for name in CHECKPOINTS:
        rewrite(path / name, data=None, settings=None)
    give(monkeypatch)
    toy(config)
    assert f"{path} is of a version that kept nothing of its data: they are" in said()
    assert end(path) == end(straight)


def test_the_settings_of_a_run_are_those_of_its_checkpoint(path: Path, said: Said) -> None:
    config, other = killed(path, 2), killed(path.with_name("other"), 1)
    settings = read_json(path / "config.json")["settings"]
    rewrite(path / "config.json", settings={**settings, "learning_rate": 0.7})
    words = "made with other settings (learning_rate 0.1 there, 0.7 here)"
    refusal_of(lambda: toy(toy_config(path, learning_rate=0.7)), words)
    assert "config.json is not as it was written (learning_rate 0.1 in the chec" in said()
    (path / "config.json").unlink()
    toy(config, lambda epoch: None)
    assert read_json(path / "config.json")["settings"] == settings
    stranger = unpack(path.with_name("other") / "checkpoint.pt")
    stranger["settings"]["seed"] = 7
    rewrite(path.with_name("other") / "checkpoint.pt", **stranger)
    refusal_of(lambda: toy(other), "other settings (seed 7 there, 0 here)")


def test_what_is_gone_from_a_finished_run_comes_back_or_the_way_is_told(
    path: Path, said: Said
) -> None:
    """That it does in every kind of run, weights among it, is tested in test_kinds.py."""
    config = toy_config(path)
    toy(config)
    (path / "alphas.npz").unlink()
    refusal_of(lambda: read_alphas(path), "; run the same again, which makes it from the checkpoi")
    assert toy(config, kill_after(1)).alphas["normal"].shape == (5, 2, 8)
    assert f"{path}: made again from its checkpoint: alphas.npz." in said()
    for name in ("alphas.npz", *CHECKPOINTS):
        (path / name).unlink()
    toy(config)
    words = "alphas.npz, and no checkpoint to make it from; resume=False makes the whole run anew"
    assert words in said()
    refusal_of(lambda: read_alphas(path), words)
