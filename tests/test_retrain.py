"""A tiny retraining: its result, exact resume, the test images touched once, odd batches."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from same_bits import bits, digest

from darts_lib import retrain_epoch
from darts_lib.cost.complexity import count_parameters
from darts_lib.data.images import ImageSet, load_images
from darts_lib.engine.files import unpack
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.run_files import read_history
from darts_lib.genotype import PUBLISHED
from darts_lib.retrain import RetrainConfig, evaluate, evaluate_run, retrain
from darts_lib.retrain_epoch import Retraining
from darts_lib.retrain_step import build_network

CELL = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1)], normal_concat=[2], "
    "reduce=[('max_pool_3x3', 0), ('dil_conv_3x3', 1)], reduce_concat=[2])"
)
TINY = {
    "scale": "laptop",
    "genotype": CELL,
    "channels": 4,
    "layers": 2,
    "max_steps": 2,
    "batch_size": 16,
    "epochs": 3,
    "auxiliary": False,
    "drop_path": 0.3,
}


def config(path: Path | str, **given: object) -> RetrainConfig:
    return RetrainConfig.create(**{**TINY, "run_dir": str(path), **given})


def stop_after(last: int) -> Callable[[dict[str, Any]], None]:
    def on_epoch(row: dict[str, Any]) -> None:
        if row["epoch"] == last:
            raise KeyboardInterrupt

    return on_epoch


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a retraining that was never stopped."""
    path = tmp_path_factory.mktemp("retrain") / "straight"
    retrain(config(path))
    return path


def assert_same_bits(path: Path, other: Path) -> None:
    here, there = (bits(unpack(folder / "checkpoint.pt")) for folder in (path, other))
    assert set(here["state"]) == {"network", "optimiser"}
    assert here["state"]["optimiser"]["state"], "momentum must be among what is compared"
    assert any("running_mean" in name for name in here["state"]["network"])
    for part in ("state", "history"):
        assert here[part] == there[part], part
    assert digest(path / "weights.safetensors") == digest(other / "weights.safetensors")
    figures = [json.loads((folder / "result.json").read_text()) for folder in (path, other)]
    for result in figures:
        del result["hours"]
    assert figures[0] == figures[1]


# Settings ---------------------------------------------------------------------------------------


def test_the_presets_are_the_papers_and_the_laptops() -> None:
    paper = RetrainConfig.create(scale="paper")
    assert (paper.dataset, paper.channels, paper.layers, paper.batch_size) == (
        "cifar10",
        36,
        20,
        96,
    )
    assert (paper.learning_rate, paper.momentum, paper.weight_decay) == (0.025, 0.9, 3e-4)
    assert (paper.auxiliary, paper.auxiliary_weight, paper.gradient_clip) == (True, 0.4, 5.0)
    assert (paper.drop_path, paper.cutout) == (0.2, 16)
    assert paper.cell == PUBLISHED["DARTS_V2"]
    laptop = RetrainConfig.create(scale="laptop")
    assert (laptop.dataset, laptop.cutout) == ("digits", 0)


def test_a_cell_is_stored_as_its_text_whatever_it_was_named_by(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(PUBLISHED["DARTS_V1"].to_dict()))
    by_file = config("", genotype=str(file))
    file.unlink()
    assert by_file.cell == PUBLISHED["DARTS_V1"]
    assert by_file == config("", genotype="DARTS_V1")
    assert config("", genotype="random", seed=1) != config("", genotype="random", seed=2)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("DARTS_V9", ["unknown genotype 'DARTS_V9'", "did you mean"]),
        (CELL.replace("sep_conv_3x3", "sep_conv_9x9"), ["node 2", "'sep_conv_9x9'"]),
        (CELL.replace("('skip_connect', 1)", "('skip_connect', 5)"), ["node 2", "source 5"]),
        ("Genotype(normal=[", ["enotype"]),
    ],
)
def test_a_wrong_cell_is_refused_in_one_line(name: str, words: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        config("", genotype=name)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_an_empty_cell_waits_for_chapter_three_and_cannot_be_trained(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="genotype is empty; name a cell"):
        retrain(config(tmp_path / "run", genotype=""))


# The recipe -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epoch", "rate", "drop_path"),
    [(0, 0.025, 0.0), (300, 0.0125, 0.1), (599, 1.7134690716569257e-07, 0.2 * 599 / 600)],
)
def test_cosine_and_drop_path_have_the_papers_values(
    epoch: int, rate: float, drop_path: float
) -> None:
    run = Retraining(config("", epochs=600, drop_path=0.2, max_steps=1))
    row = run.epoch(epoch)
    assert row["learning_rate"] == pytest.approx(rate, rel=1e-9)
    assert row["drop_path"] == pytest.approx(drop_path, rel=1e-12)
    assert run.net.drop_path is not None
    assert float(run.net.drop_path) == pytest.approx(drop_path, rel=1e-6)
    assert float(run.optimiser.param_groups[0]["lr"]) == pytest.approx(rate, rel=1e-6)


def test_the_auxiliary_loss_is_added_with_its_weight() -> None:
    run = Retraining(config("", auxiliary=True, auxiliary_weight=0.4))
    logits, labels = torch.zeros(4, 10), torch.arange(4)
    alone = run.loss(logits, None, labels)
    assert float(run.loss(logits, logits, labels)) == pytest.approx(1.4 * float(alone))


def test_a_last_batch_of_one_picture_is_trained_with_its_neighbours(tmp_path: Path) -> None:
    """65 pictures in batches of 64: a batch of one has no statistics in the auxiliary head."""
    given = {"batch_size": 64, "max_images": 65, "max_steps": 0, "epochs": 1, "auxiliary": True}
    result = retrain(config(tmp_path / "run", **given))
    assert result.history[0]["train_accuracy"] * 65 == pytest.approx(
        round(result.history[0]["train_accuracy"] * 65)
    ), "all 65 are counted"
    assert result.figures["parameters_with_auxiliary"] > result.figures["parameters"]


# The result -------------------------------------------------------------------------------------


def test_the_history_and_the_result_have_every_figure(straight: Path) -> None:
    result = retrain(config(straight))
    assert [row["epoch"] for row in result.history] == [1, 2, 3]
    for row in result.history:
        assert set(row) == {
            "epoch",
            "learning_rate",
            "drop_path",
            "train_loss",
            "train_accuracy",
            "seconds",
        }
    figures = result.figures
    assert figures["test_images"] == 360
    assert 0 <= figures["test_accuracy"] <= figures["test_top5"] <= 1
    assert result.test_accuracy == figures["test_accuracy"]
    assert figures["parameters"] == figures["parameters_with_auxiliary"]
    assert figures["parameters"] == count_parameters(build_network(config(""), 10, 1))
    assert figures["multiply_adds"] > 0
    assert figures["genotype"] == config("").cell.to_dict()


def test_the_result_is_that_of_the_network_after_the_last_epoch(straight: Path) -> None:
    net = build_network(config(""), 10, 1)
    state: Any = unpack(straight / "checkpoint.pt")["state"]
    net.load_state_dict(state["network"])
    found = evaluate(net, load_images("digits", Path(), "test"), 16)
    figures = json.loads((straight / "result.json").read_text())
    assert (found["top1"], found["loss"]) == (figures["test_accuracy"], figures["test_loss"])
    stored = load_file(straight / "weights.safetensors")
    assert bits(stored) == bits(dict(net.state_dict()))


def test_a_saved_network_tested_again_gives_exactly_its_figures(straight: Path) -> None:
    figures = json.loads((straight / "result.json").read_text())
    again = evaluate_run(straight)
    assert again == {
        "loss": figures["test_loss"],
        "top1": figures["test_accuracy"],
        "top5": figures["test_top5"],
        "images": figures["test_images"],
    }


def test_evaluation_counts_every_picture_once_and_restores_the_mode(straight: Path) -> None:
    net = build_network(config(""), 10, 1)
    net.load_state_dict(load_file(straight / "weights.safetensors"))
    images = load_images("digits", Path(), "test", max_images=9)
    for training in (True, False):
        net.train(training)
        one, other = evaluate(net, images, 4), evaluate(net, images, 100)
        assert one["loss"] == pytest.approx(other["loss"])
        assert (one["top1"] * 9) % 1 == pytest.approx(0, abs=1e-9)
        assert net.training is training


def test_an_unfinished_folder_is_not_evaluated(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"holds no weights\.safetensors; finish"):
        evaluate_run(tmp_path)


def test_the_test_images_are_read_once_and_only_after_the_last_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def spy(dataset: str, root: Path, split: Any, *sizes: int) -> ImageSet:
        seen.append(split)
        return load_images(dataset, root, split, *sizes)

    monkeypatch.setattr(retrain_epoch, "load_images", spy)
    settings = config(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        retrain(settings, stop_after(2))
    assert seen == ["train"], "a stopped run has not seen the test images"
    retrain(settings, lambda row: seen.append(f"epoch {row['epoch']}"))
    assert seen == ["train", "train", "epoch 3", "test"]
    retrain(settings)
    assert seen.count("test") == 1, "a finished run is not tested again"


def test_a_holdout_is_learnt_from_by_nobody_and_takes_the_place_of_the_test_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_images("digits", Path(), "train", max_images=101)

    def no_test(dataset: str, root: Path, split: Any, *sizes: int) -> ImageSet:
        assert split == "train", "choosing among cells must not read the test images"
        return load_images(dataset, root, split, *sizes)

    monkeypatch.setattr(retrain_epoch, "load_images", no_test)
    given = config(tmp_path / "run", holdout=0.3, max_images=101, max_steps=0)
    run = Retraining(given)
    assert torch.equal(run.train.images, whole.images[:71])
    result = retrain(given)
    assert result.figures["test_images"] == 30  # of 30.3
    assert result.figures["tested_on"] == "held-out training images"
    net = build_network(given, 10, 1)
    net.load_state_dict(load_file(result.path / "weights.safetensors"))
    found = evaluate(net, whole.select(slice(71, None)), 16)
    assert found["loss"] == result.figures["test_loss"]
    assert evaluate_run(result.path)["loss"] == found["loss"]


@pytest.mark.parametrize(
    ("share", "images", "problem"),
    [
        (0.999, 0, r"holdout=0\.999 leaves 1 of the 1437 pictures to learn from and 1436 to judge"),
        (0.001, 100, r"leaves 100 of the 100 pictures to learn from and 0 to judge by"),
        (0.99, 0, r"holdout=0\.99 leaves no picture of class '\d' of digits to learn from"),
    ],
)
def test_a_holdout_that_leaves_too_little_is_refused(
    share: float, images: int, problem: str
) -> None:
    with pytest.raises(SettingsError, match=problem):
        Retraining(config("", holdout=share, max_images=images))


# Exact resume -----------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [1, 2, 3])
def test_a_stopped_retraining_continued_has_the_same_bits(
    last: int, tmp_path: Path, straight: Path
) -> None:
    settings, rows = config(tmp_path / "run"), []
    with pytest.raises(KeyboardInterrupt):
        retrain(settings, stop_after(last))
    torch.rand(5)
    retrain(settings, lambda row: rows.append(row["epoch"]))
    assert rows == [epoch for epoch in (1, 2, 3) if epoch > last], "no epoch is done twice"
    assert_same_bits(tmp_path / "run", straight)


PROGRAM = """
import json, os, sys
import torch
from darts_lib.retrain import RetrainConfig, retrain
from darts_lib.retrain_epoch import Retraining
torch.set_num_threads(1)
steps, step = [], Retraining.step
def stopped_step(*arguments):
    steps.append(1)
    if len(steps) == 4:  # the second step of the second epoch
        os.kill(os.getpid(), int(sys.argv[2]))
    return step(*arguments)
Retraining.step = stopped_step
retrain(RetrainConfig.create(**json.loads(sys.argv[1])))
"""


def test_another_process_killed_in_an_epoch_is_continued_here_to_the_same_bits(
    tmp_path: Path, straight: Path
) -> None:
    given = json.dumps({**TINY, "run_dir": str(tmp_path / "run")})
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, given, str(int(signal.SIGKILL))],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(read_history(tmp_path / "run")) == 1
    retrain(config(tmp_path / "run"))
    assert_same_bits(tmp_path / "run", straight)


def test_a_damaged_checkpoint_costs_one_epoch_and_no_bit(tmp_path: Path, straight: Path) -> None:
    settings = config(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        retrain(settings, stop_after(2))
    file = tmp_path / "run" / "checkpoint.pt"
    file.write_bytes(file.read_bytes()[:5000])
    retrain(settings)
    assert_same_bits(tmp_path / "run", straight)


def test_a_finished_retraining_is_read_back_not_redone(
    straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def contents() -> dict[str, tuple[bytes, int]]:
        files = straight.iterdir()
        return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}

    before = contents()
    retrain(config(straight), stop_after(1))
    assert contents() == before
    assert "finished already; read back from" in capsys.readouterr().out


def test_other_settings_and_another_seed(tmp_path: Path, straight: Path) -> None:
    with pytest.raises(SettingsError, match=r"drop_path 0\.3 there, 0\.1 here"):
        retrain(config(straight, drop_path=0.1))
    other = retrain(config(tmp_path / "other", seed=1, epochs=1))
    assert other.history[0]["train_loss"] != read_history(straight)[0]["train_loss"]


def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        retrain(settings, stop_after(1))
    before = digest(tmp_path / "run" / "checkpoint.pt")
    monkeypatch.setattr(Retraining, "loss", lambda _, logits, *__: logits.sum() * torch.nan)
    with pytest.raises(
        FloatingPointError, match=r"step 1 of epoch 2 \(loss nan, learning rate 0\.01875"
    ):
        retrain(settings)
    assert digest(tmp_path / "run" / "checkpoint.pt") == before
