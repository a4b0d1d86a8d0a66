"""A cell on ImageNet: the recipe's figures, workers, `val` read once, what chapter 07 takes."""

import functools
import json
import multiprocessing
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzz_tools import Patch, Printed, refusal_of
from kind_tools import IMAGENET, end_of, stop_after
from picture_tools import make
from PIL import Image
from torch.nn import functional as F

from darts_lib import transfer
from darts_lib.cost.complexity import count_parameters, multiply_adds
from darts_lib.data.imagenet_data import PictureFiles, read_batches
from darts_lib.derivation import random_genotype
from darts_lib.engine import run as engine_run
from darts_lib.engine.folder import read_json
from darts_lib.engine.opening import default_folder
from darts_lib.engine.refusals import SettingsError
from darts_lib.formats.network_files import load_network
from darts_lib.genotype import PUBLISHED, Genotype
from darts_lib.search import SearchConfig
from darts_lib.tools.checkpoints import main
from darts_lib.transfer import ImageNetRetrainConfig, ImageNetRetraining, retrain, with_defaults


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 12 training pictures and 6 test pictures in 3 classes."""
    return make(tmp_path_factory.mktemp("pictures"))


def config(data: Path, path: Path | str = "", **given: object) -> ImageNetRetrainConfig:
    given = {**IMAGENET, "data_root": str(data), "run_dir": str(path), **given}
    return ImageNetRetrainConfig.create(**given)


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a retraining that was never stopped."""
    path = tmp_path_factory.mktemp("imagenet") / "straight"
    retrain(config(data, path))
    return path


def test_the_rate_falls_by_three_percent_an_epoch(data: Path) -> None:
    paper = ImageNetRetrainConfig.create(scale="paper")
    assert [paper.rate(e) for e in range(250)] == pytest.approx([0.1 * 0.97**e for e in range(250)])
    assert (paper.rate(0), f"{paper.rate(249):.2e}") == (0.1, "5.08e-05")
    run = ImageNetRetraining(config(data, epochs=250, learning_rate=0.1, max_steps=1))
    assert run.epoch(249)["learning_rate"] == pytest.approx(0.1 * 0.97**249)
    assert float(run.optimiser.param_groups[0]["lr"]) == pytest.approx(0.1 * 0.97**249, rel=1e-6)


def test_the_network_is_the_papers() -> None:
    """Its further counts are those of tests/cost/test_published_counts.py."""
    with torch.device("meta"):
        net = ImageNetRetrainConfig.create(scale="paper").network(1000)
    assert (count_parameters(net), net.auxiliary_head is None) == (5_979_528, False)
    assert multiply_adds(net, (3, 224, 224)) == 529_911_552


def test_the_projects_data_are_the_default(monkeypatch: Patch, tmp_path: Path) -> None:
    monkeypatch.setenv("DARTS_LIB_DATA", str(tmp_path))
    assert ImageNetRetrainConfig.create().data_folder == tmp_path / "imagenet"
    with pytest.raises(SettingsError, match="imagenet is not there; expected: .*FOLDER/train"):
        retrain(ImageNetRetrainConfig.create(scale="laptop"))


def test_the_test_is_of_every_val_picture_and_smooths_nothing(straight: Path, data: Path) -> None:
    figures = read_json(straight / "result.json")
    net, _ = load_network(straight / "weights.safetensors")
    run = ImageNetRetraining(config(data))
    images, labels = next(read_batches(run.held_out, [torch.arange(6)], 0, run.device))
    by_hand = F.cross_entropy(net(images)[0], labels).detach()
    assert figures["test_loss"] == pytest.approx(float(by_hand), rel=1e-5)
    assert figures["test_images"] == 6
    assert 0 <= figures["test_accuracy"] <= figures["test_top5"] == 1, "of three classes"
    own = count_parameters(run.net, without="auxiliary_head")
    assert figures["parameters"] == own < figures["parameters_with_auxiliary"]


def test_workers_may_change_when_a_run_goes_on(data: Path) -> None:
    """That they change no bit is in tests/engine/test_determinism.py."""
    assert config(data, workers=2).settings_that_matter() == config(data).settings_that_matter()


def test_the_command_tests_the_weights_on_val_and_says_on_what_they_can_be(
    straight: Path, data: Path, tmp_path: Path, capsys: Printed
) -> None:
    for file in (tmp_path / side / name / "1.png" for side in ("train", "val") for name in "ab"):
        file.parent.mkdir(parents=True)
        Image.new("RGB", (70, 70)).save(file)
    command = ["evaluate", str(straight / "weights.safetensors")]
    for words, given in {
        "which is not for --dataset digits": ["--dataset", "digits"],
        "does not know: 'a', 'b'; it knows 'n01'": ["--data", str(tmp_path)],
    }.items():
        refusal_of(functools.partial(main, [*command, *given]), words)
    main([*command, "--data", str(data), "--size", "64"])
    error = 100 * (1 - read_json(straight / "result.json")["test_accuracy"])
    assert capsys.readouterr().out.endswith(f"top-1 error {error:.2f} %\n"), "of three classes"


def test_the_val_pictures_are_read_once_and_last_of_all(data: Path, monkeypatch: Patch) -> None:
    seen: list[str] = []

    def spy(files: PictureFiles, *rest: Any) -> Iterator[Any]:
        seen.append(Path(files.paths[0].decode()).parts[-3])
        return read_batches(files, *rest)

    monkeypatch.setattr(transfer, "read_batches", spy)
    settings = config(data)
    with pytest.raises(KeyboardInterrupt):
        retrain(settings, stop_after(2))
    assert seen == ["train"] * 3, "a batch for the trial, two epochs"
    retrain(settings)
    retrain(settings)
    assert seen[3:] == ["train", "train", "val"], "the trial, an epoch, the test"


@pytest.mark.deep
def test_an_error_in_an_epoch_leaves_no_worker(data: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(ImageNetRetraining, "loss", lambda _, logits, *__: logits.sum() * torch.nan)
    monkeypatch.setattr(engine_run, "EVERY", 1)
    with pytest.raises(FloatingPointError, match="step 1 of epoch 1") as caught:
        ImageNetRetraining(config(data, workers=2)).epoch(0)
    assert caught.traceback, "the frames are still held, and yet"
    assert not multiprocessing.active_children()


def test_the_time_is_that_of_reading_too(data: Path, monkeypatch: Patch) -> None:
    """A step of two seconds; workers read meanwhile, each its share."""
    monkeypatch.setattr(engine_run.Run, "trial", lambda _: (2.0, 7))
    for workers, reading, seconds in ((0, 3.0, 5.0), (4, 4.0, 2.0), (4, 40.0, 10.0)):
        run = ImageNetRetraining(config(data, workers=workers))
        run.trial_batches()
        assert run.reading > 0
        run.reading = reading
        assert run.trial() == (seconds, 7)


def test_the_command_does_the_same_and_wrong_data_end_it_in_one_line(
    tmp_path: Path, straight: Path, data: Path, monkeypatch: Patch, capsys: Printed
) -> None:
    file, run = tmp_path / "config.json", tmp_path / "run"
    monkeypatch.setattr(sys, "argv", ["imagenet_retrain", str(file)])
    file.write_text(json.dumps({**IMAGENET, "data_root": str(data), "run_dir": str(run)}))
    runpy.run_module("darts_lib.imagenet_retrain", run_name="__main__")
    said = capsys.readouterr().out
    assert "12 training and 6 test pictures in 3 classes" in said
    assert "epoch 3/3  train_loss" in said
    assert end_of(run) == end_of(straight)
    file.write_text(json.dumps({**IMAGENET, "data_root": str(tmp_path)}))
    with pytest.raises(SystemExit, match="2"):
        runpy.run_module("darts_lib.imagenet_retrain", run_name="__main__")
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path}" in line
    assert "has no pictures" in line


def unnamed(**given: object) -> ImageNetRetrainConfig:
    return ImageNetRetrainConfig.create(**{"scale": "laptop", "genotype": "", **given})


def test_the_cell_of_the_last_finished_search_is_taken(capsys: Printed) -> None:
    def cell(**given: object) -> Genotype:
        return with_defaults(unnamed(data_root="there", **given)).cell

    assert cell() == PUBLISHED["DARTS_V2"]
    assert capsys.readouterr().out == "the cell of DARTS_V2\n"
    folder = default_folder(SearchConfig.create(scale="laptop"))
    folder.mkdir(parents=True)
    (folder / "genotype.json").write_text(json.dumps(random_genotype(3).to_dict()))
    assert cell() == PUBLISHED["DARTS_V2"], "the search has not finished"
    (folder / "result.json").write_text("{}")
    assert cell() == random_genotype(3)
    assert cell(seed=1) == PUBLISHED["DARTS_V2"], "of another seed"
    assert cell(genotype="NASNet") == PUBLISHED["NASNet"]


def test_without_pictures_a_laptop_makes_examples_and_paper_scale_none(runs_root: Path) -> None:
    paper = with_defaults(unnamed(scale="paper", device="cpu"))
    assert (paper.data_root, paper.data_folder.name) == ("", "imagenet")
    assert not list(runs_root.iterdir())
    laptop = with_defaults(unnamed())
    assert (laptop.data_folder, laptop.run_dir) == (runs_root / "example-pictures", "")
    assert (laptop.data_folder / "train" / "flower").is_dir()


def test_named_places_stay_and_other_pictures_have_run_folders_of_their_own() -> None:
    configs = [with_defaults(unnamed(data_root=name)) for name in ("there", "elsewhere")]
    assert [each.data_root for each in configs] == ["there", "elsewhere"]
    assert len({default_folder(each) for each in configs}) == 2
    assert with_defaults(unnamed(data_root="there", run_dir="mine")).run_dir == "mine"


@pytest.mark.deep
@pytest.mark.real_data("imagenette224_subset")
def test_the_published_cell_learns_from_real_pictures(real_data_root: Path, tmp_path: Path) -> None:
    given = {"scale": "laptop", "genotype": "DARTS_V2", "epochs": 5, "run_dir": str(tmp_path)}
    given["data_root"] = str(real_data_root / "imagenette224_subset")
    result = retrain(ImageNetRetrainConfig.create(**given))
    assert result.figures["test_images"] == 300
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]
    assert result.figures["test_accuracy"] > 0.18, "chance is 0.10, within 0.05 in 99 of 100 runs"
