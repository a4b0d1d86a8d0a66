"""Retraining in the ImageNet form: the recipe's figures, exact resume, workers, a real folder."""

import json
import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from same_bits import digest
from test_imagenet_data import make
from torch import Tensor

from darts_lib import imagenet_retrain
from darts_lib.cost.complexity import count_parameters, multiply_adds
from darts_lib.data.imagenet_data import PictureFiles, read_batches
from darts_lib.engine.command_line import run_from_file
from darts_lib.engine.files import unpack
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.run_files import read_history
from darts_lib.formats.network_files import load_network
from darts_lib.imagenet_retrain import (
    ImageNetRetrainConfig,
    ImageNetRetraining,
    build_network,
    retrain,
)
from darts_lib.retrain_step import RetrainConfig
from darts_lib.tools.checkpoints import main

CELL = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1)], normal_concat=[2], "
    "reduce=[('max_pool_3x3', 0), ('dil_conv_3x3', 1)], reduce_concat=[2])"
)
TINY = {"scale": "laptop", "genotype": CELL, "channels": 4, "layers": 2, "batch_size": 5}
TINY |= {"epochs": 3, "drop_path": 0.3}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 12 training pictures and 6 test pictures in 3 classes."""
    return make(tmp_path_factory.mktemp("pictures"))


def config(data: Path, path: Path | str = "", **given: object) -> ImageNetRetrainConfig:
    places = {"data_root": str(data), "run_dir": str(path)}
    return ImageNetRetrainConfig.create(**{**TINY, **places, **given})


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a retraining that was never stopped."""
    path = tmp_path_factory.mktemp("imagenet") / "straight"
    retrain(config(data, path))
    return path


def stop_after(last: int) -> Callable[[dict[str, Any]], None]:
    def on_epoch(row: dict[str, Any]) -> None:
        if row["epoch"] == last:
            raise KeyboardInterrupt

    return on_epoch


def assert_same_weights(path: Path, other: Path) -> None:
    file = "weights.safetensors"
    assert digest(path / file) == digest(other / file)
    rows = [[{**row, "seconds": 0} for row in read_history(folder)] for folder in (path, other)]
    assert rows[0] == rows[1]


# The recipe -------------------------------------------------------------------------------------


def test_the_defaults_are_the_papers() -> None:
    paper = ImageNetRetrainConfig.create(scale="paper")
    assert (paper.channels, paper.layers, paper.epochs, paper.batch_size) == (48, 14, 250, 128)
    assert (paper.learning_rate, paper.schedule, paper.rate_decay) == (0.1, "exponential", 0.97)
    assert (paper.momentum, paper.weight_decay, paper.gradient_clip) == (0.9, 3e-5, 5.0)
    assert (paper.label_smoothing, paper.auxiliary, paper.auxiliary_weight) == (0.1, True, 0.4)
    assert (paper.drop_path, paper.cutout, paper.image_size, paper.seed) == (0, 0, 224, 0)


def test_the_rate_falls_by_three_percent_an_epoch() -> None:
    paper = ImageNetRetrainConfig.create(scale="paper")
    rates = [paper.rate(epoch) for epoch in range(250)]
    assert rates[0] == 0.1
    assert f"{rates[249]:.2e}" == "5.08e-05"
    assert all(b / a == pytest.approx(0.97) for a, b in zip(rates, rates[1:], strict=False))


def test_the_optimiser_follows_the_rate(data: Path) -> None:
    run = ImageNetRetraining(config(data, epochs=250, learning_rate=0.1, max_steps=1))
    row = run.epoch(249)
    assert row["learning_rate"] == pytest.approx(0.1 * 0.97**249)
    assert float(run.optimiser.param_groups[0]["lr"]) == pytest.approx(0.1 * 0.97**249, rel=1e-6)


def test_the_counts_are_the_papers() -> None:
    paper = ImageNetRetrainConfig.create(scale="paper")
    with torch.device("meta"):
        net = build_network(paper, 1000)
    assert count_parameters(net, without="auxiliary_head") == 4_718_752
    assert count_parameters(net) == 5_979_528
    assert multiply_adds(net, (3, 224, 224)) == 529_911_552


def smoothed(logits: Tensor, labels: Tensor, e: float) -> Tensor:
    """Cross-entropy with the target (1 - e) onehot + e / K, written out."""
    classes = logits.shape[1]
    target = torch.full_like(logits, e / classes)
    for row, label in enumerate(labels.tolist()):
        target[row, label] += 1 - e
    log_p = logits - logits.exp().sum(dim=1, keepdim=True).log()
    return -(target * log_p).sum() / len(logits)


@pytest.mark.parametrize("e", [0.0, 0.1, 0.4])
def test_label_smoothing_is_the_written_out_target_for_both_heads(e: float, data: Path) -> None:
    run = ImageNetRetraining(config(data, label_smoothing=e))
    torch.manual_seed(0)
    logits, auxiliary = (torch.randn(6, 9, dtype=torch.float64) for _ in range(2))
    labels = torch.tensor([0, 8, 3, 3, 1, 5])
    by_hand = smoothed(logits, labels, e) + 0.4 * smoothed(auxiliary, labels, e)
    torch.testing.assert_close(run.loss(logits, auxiliary, labels), by_hand, rtol=1e-13, atol=0)
    alone = smoothed(logits, labels, e)
    torch.testing.assert_close(run.loss(logits, None, labels), alone, rtol=1e-13, atol=0)


def test_testing_smooths_nothing(straight: Path, data: Path) -> None:
    net, _ = load_network(straight / "weights.safetensors")
    run = ImageNetRetraining(config(data))
    images, labels = next(read_batches(run.held_out, [torch.arange(6)], 0, run.device))
    by_hand = smoothed(net(images)[0].double(), labels, 0.0)
    figures = json.loads((straight / "result.json").read_text())
    assert figures["test_loss"] == pytest.approx(float(by_hand.detach()), rel=1e-5)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"dataset": "cifar10"}, "dataset='cifar10'"),
        ({"cutout": 16}, "cutout=16"),
        ({"holdout": 0.5}, "holdout=0.5"),
        ({"image_size": 32}, "image_size=32"),
        ({"channels": 7}, "channels=7"),
        ({"worker": 2}, "did you mean 'workers'"),
        ({"schedule": "step"}, "'cosine' or 'exponential'"),
    ],
)
def test_wrong_settings_are_refused(given: dict[str, object], words: str, data: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        config(data, **given)
    assert words in str(caught.value)


def test_without_a_folder_the_projects_data_are_meant(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DARTS_LIB_DATA", str(tmp_path))
    assert ImageNetRetrainConfig.create().data_folder == tmp_path / "imagenet"
    with pytest.raises(SettingsError, match="imagenet is not there; expected: FOLDER/train"):
        retrain(ImageNetRetrainConfig.create(scale="laptop"))


def test_the_cosine_of_small_images_is_also_to_be_had(data: Path) -> None:
    other = config(data, schedule="cosine", epochs=4, learning_rate=0.1)
    assert [other.rate(epoch) for epoch in (0, 2)] == pytest.approx([0.1, 0.05])
    small = RetrainConfig.create(schedule="exponential", rate_decay=0.5, learning_rate=0.1)
    assert small.rate(3) == pytest.approx(0.0125)


# The run ----------------------------------------------------------------------------------------


def test_the_result_has_every_figure(straight: Path, data: Path) -> None:
    result = retrain(config(data, straight))
    assert [row["epoch"] for row in result.history] == [1, 2, 3]
    assert result.figures["test_images"] == 6
    assert 0 <= result.test_accuracy <= result.figures["test_top5"] == 1, "of three classes"
    assert result.figures["parameters"] == count_parameters(
        build_network(config(data), 3), without="auxiliary_head"
    )
    assert result.figures["parameters"] < result.figures["parameters_with_auxiliary"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stopped_run_continued_ends_in_the_same_weights(
    workers: int, tmp_path: Path, straight: Path, data: Path
) -> None:
    """With other numbers of workers before and after: 2 or 0 for two epochs, then the other."""
    path = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        retrain(config(data, path, workers=workers), stop_after(2))
    torch.rand(5)
    retrain(config(data, path, workers=2 - workers))
    assert_same_weights(path, straight)


def test_the_command_line_tests_the_weights_on_val(
    straight: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", str(straight / "weights.safetensors"), "--data", str(data)]
    assert main([*command, "--size", "64"]) == 0
    result = json.loads((straight / "result.json").read_text())
    said = capsys.readouterr().out
    assert said.endswith(f"top-1 error {100 * (1 - result['test_accuracy']):.2f} %\n")
    assert "top-5" not in said, "of three classes"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dataset", "digits"], "which is not for --dataset digits"),
        (["--data", "nowhere"], "--data-root nowhere is not there"),
    ],
)
def test_the_command_line_says_what_imagenet_weights_are_tested_on(
    arguments: list[str], words: str, straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(straight / "weights.safetensors"), *arguments]) == 2
    shown = capsys.readouterr().err
    assert words in shown
    assert shown.count("\n") == 1


def test_val_of_other_classes_is_refused(
    straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for side in ("train", "val"):
        for name in ("a", "b"):
            file = tmp_path / side / name / "1.png"
            file.parent.mkdir(parents=True)
            Image.new("RGB", (70, 70)).save(file)
    command = ["evaluate", str(straight / "weights.safetensors"), "--data", str(tmp_path)]
    assert main(command) == 2
    assert f"3 classes apart in images of 3 channels, but {tmp_path} has 2 and 3" in (
        capsys.readouterr().err
    )


def test_another_seed_gives_other_weights(tmp_path: Path, straight: Path, data: Path) -> None:
    retrain(config(data, tmp_path / "run", seed=1))
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path / "run", straight)


def test_the_val_pictures_are_read_once_and_only_after_the_last_epoch(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def spy(files: PictureFiles, *rest: Any) -> Any:
        seen.append(Path(files.paths[0].decode()).parts[-3])
        return read_batches(files, *rest)

    monkeypatch.setattr(imagenet_retrain, "read_batches", spy)
    settings = config(data, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        retrain(settings, stop_after(2))
    assert seen == ["train", "train"]
    retrain(settings)
    retrain(settings)
    assert seen == ["train", "train", "train", "val"]


def test_an_error_in_an_epoch_leaves_no_worker_and_keeps_the_checkpoint(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(data, tmp_path / "run", workers=2)
    with pytest.raises(KeyboardInterrupt):
        retrain(settings, stop_after(1))
    monkeypatch.setattr(
        ImageNetRetraining, "loss", lambda _, logits, *__: logits.sum() * torch.nan
    )  # fmt: skip
    monkeypatch.setattr("darts_lib.retrain_epoch.EVERY", 1)
    with pytest.raises(FloatingPointError, match="step 1 of epoch 2") as caught:
        retrain(settings)
    assert caught.traceback, "the frames are still held, and yet"
    assert not multiprocessing.active_children()
    state: Any = unpack(tmp_path / "run" / "checkpoint.pt")
    assert len(state["history"]) == 1


def test_a_broken_picture_is_named_in_an_epoch(tmp_path: Path) -> None:
    root = make(tmp_path / "data")
    file = root / "train" / "n03" / "n03_2.JPEG"
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(SettingsError, match=r"n03_2\.JPEG cannot be read as a picture"):
        retrain(config(root, tmp_path / "run"))


def test_the_time_is_that_of_reading_too(data: Path) -> None:
    assert ImageNetRetraining(config(data)).seconds_with_batch(10.0) > 10
    assert ImageNetRetraining(config(data, workers=4)).seconds_with_batch(1e6) == 1e6
    assert ImageNetRetraining(config(data, workers=4)).seconds_with_batch(1e-9) > 1e-9


def test_the_command_line_does_the_same(tmp_path: Path, straight: Path, data: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**TINY, "data_root": str(data), "run_dir": str(tmp_path / "run")}))
    command = [sys.executable, "-m", "darts_lib.imagenet_retrain", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "12 training and 6 test pictures in 3 classes" in done.stdout
    assert "epoch 3/3  train_loss" in done.stdout
    assert_same_weights(tmp_path / "run", straight)


def test_wrong_data_end_the_command_line_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**TINY, "data_root": str(tmp_path)}))
    monkeypatch.setattr(sys, "argv", ["imagenet_retrain", str(file)])
    with pytest.raises(SystemExit) as ended:
        run_from_file(ImageNetRetrainConfig, retrain, str)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "train has no class folders" in said
    assert said.count("\n") == 1


# A real folder ----------------------------------------------------------------------------------

CHANCE, MARGIN = 0.10, 0.08
"""Of ten classes and 300 pictures: chance is within 0.05 of it in 99 of 100 runs."""


@pytest.mark.slow
@pytest.mark.real_data("imagenette224_subset")
def test_the_published_cell_learns_from_a_thousand_real_pictures(
    real_data_root: Path, tmp_path: Path
) -> None:
    given = {"scale": "laptop", "genotype": "DARTS_V2", "epochs": 5}
    places = {"data_root": str(real_data_root / "imagenette224_subset"), "run_dir": str(tmp_path)}
    result = retrain(ImageNetRetrainConfig.create(**given, **places))
    print(f"test {result.test_accuracy:.3f}, top-5 {result.figures['test_top5']:.3f}")
    assert result.figures["test_images"] == 300
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]
    assert result.test_accuracy > CHANCE + MARGIN
