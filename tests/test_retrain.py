"""Retraining a cell on small images: the recipe, its step, the test images read once, a holdout."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from kind_tools import RETRAIN, stop_after
from safetensors.torch import load_file
from same_bits import bits
from torch import Tensor
from torch.nn import functional as F

from darts_lib import retrain as retraining
from darts_lib.cost.complexity import count_parameters, multiply_adds
from darts_lib.data.images import Batch, ImageSet, load_images
from darts_lib.engine.files import unpack
from darts_lib.engine.folder import read_json
from darts_lib.engine.refusals import SettingsError
from darts_lib.genotype import PUBLISHED
from darts_lib.retrain import Retraining, build_network, evaluate, evaluate_run, retrain


def config(path: Path | str = "", **given: object) -> retraining.RetrainConfig:
    given = {**RETRAIN, "auxiliary": False, "run_dir": str(path), **given}
    return retraining.RetrainConfig.create(**given)


def started(**given: object) -> tuple[Retraining, Batch]:
    """Return a retraining of three cells with an auxiliary head, and a batch."""
    run = Retraining(config(layers=3, auxiliary=True, **given))
    run.drop_path.fill_(0.2)
    (batch,) = next(run.batches(torch.Generator().manual_seed(0)))
    return run, batch


@pytest.fixture(scope="module")
def retrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished retraining."""
    path = tmp_path_factory.mktemp("retrain") / "run"
    retrain(config(path))
    return path


def test_a_cell_is_stored_as_its_text_whatever_it_was_named_by(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(PUBLISHED["DARTS_V1"].to_dict()))
    by_file = config(genotype=str(file))
    file.unlink()
    assert by_file.cell == PUBLISHED["DARTS_V1"]
    assert by_file == config(genotype="DARTS_V1")
    assert config(genotype="random", seed=1) != config(genotype="random", seed=2)


@pytest.mark.parametrize(("epoch", "rate", "drop_path"), [
    (0, 0.025, 0.0), (300, 0.0125, 0.1), (599, 1.7134690716569257e-07, 0.2 * 599 / 600),
])  # fmt: skip
def test_cosine_and_drop_path_are_the_papers(epoch: int, rate: float, drop_path: float) -> None:
    run = Retraining(config(epochs=600, drop_path=0.2, max_steps=1))
    row = run.epoch(epoch)
    assert row["learning_rate"] == pytest.approx(rate, rel=1e-9)
    assert row["drop_path"] == pytest.approx(drop_path, rel=1e-12)
    used = [float(run.net.drop_path), float(run.optimiser.param_groups[0]["lr"])]  # type: ignore[arg-type]
    assert used == pytest.approx([drop_path, rate], rel=1e-6)


def smoothed(logits: Tensor, labels: Tensor, e: float) -> Tensor:
    """Cross-entropy with the target (1 - e) onehot + e / K, written out."""
    target = (1 - e) * F.one_hot(labels, logits.shape[1]).double() + e / logits.shape[1]
    log_p = logits - logits.exp().sum(dim=1, keepdim=True).log()
    return -(target * log_p).sum() / len(logits)


@pytest.mark.parametrize("e", [0.0, 0.1, 0.4])
def test_label_smoothing_is_the_written_out_target_and_the_head_has_its_weight(e: float) -> None:
    run = Retraining(config(label_smoothing=e, auxiliary_weight=0.4))
    torch.manual_seed(0)
    logits, auxiliary = (torch.randn(6, 9, dtype=torch.float64) for _ in range(2))
    labels = torch.tensor([0, 8, 3, 3, 1, 5])
    alone = smoothed(logits, labels, e)
    by_hand = alone + 0.4 * smoothed(auxiliary, labels, e)
    torch.testing.assert_close(run.loss(logits, auxiliary, labels), by_hand, rtol=1e-13, atol=0)
    torch.testing.assert_close(run.loss(logits, None, labels), alone, rtol=1e-13, atol=0)


@pytest.mark.parametrize("parts", [1, 3])
def test_two_steps_against_plain_sgd(parts: int) -> None:
    """Two, so that the momentum counts; settings large enough to be seen. 8 are 3, 3 and 2."""
    given = {"learning_rate": 0.1, "momentum": 0.7, "weight_decay": 0.02, "gradient_clip": 0.5}
    run, batch = started(**given, drop_path=0, auxiliary_weight=0.3, accumulate=parts)
    twin = copy.deepcopy(run.net)
    plain = torch.optim.SGD(twin.parameters(), 0.1, 0.7, weight_decay=0.02, foreach=False)
    for _ in range(2):
        run.step(batch)
        plain.zero_grad()
        for images, labels in zip(*(x.tensor_split(parts) for x in batch), strict=True):
            logits, auxiliary = twin(images)
            loss = F.cross_entropy(logits, labels) + 0.3 * F.cross_entropy(auxiliary, labels)
            torch.autograd.backward(loss * len(labels) / 8)
        assert torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5) > 0.5
        plain.step()
    torch.testing.assert_close(run.net.state_dict(), twin.state_dict(), rtol=1e-4, atol=1e-5)


def test_cutout_puts_a_box_of_zeros_into_every_training_picture() -> None:
    (_, (whole, _)), (_, (cut, _)) = started(cutout=0), started(cutout=4)
    changed = whole != cut
    assert torch.equal(cut[changed], torch.zeros(int(changed.sum())))
    assert changed.flatten(1).any(dim=1).all()


def test_bfloat16_gives_nearly_the_same_step() -> None:
    losses = []
    for amp in ("off", "on"):
        run, batch = started(amp=amp, drop_path=0, batch_size=64)
        total = run.step(batch)
        losses.append(float(total[0] / total[2]))
        assert all(weight.dtype == torch.float32 for weight in run.net.parameters())
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.02)


def test_a_last_batch_of_one_picture_is_trained_with_its_neighbours(tmp_path: Path) -> None:
    """65 pictures in batches of 64: a batch of one has no statistics in the auxiliary head."""
    given = {"batch_size": 64, "max_images": 65, "max_steps": 0, "epochs": 1, "auxiliary": True}
    result = retrain(config(tmp_path / "run", **given))
    right = 65 * result.history[0]["train_accuracy"]
    assert right == pytest.approx(round(right)), "all 65 are counted"
    assert result.figures["parameters_with_auxiliary"] > result.figures["parameters"]


def test_the_result_is_that_of_the_network_after_the_last_epoch(retrained: Path) -> None:
    net = build_network(config(), 10, 1)
    state: Any = unpack(retrained / "checkpoint.pt")["state"]
    net.load_state_dict(state["network"])
    tested = evaluate(net, load_images("digits", Path(), "test"), 8)
    figures = read_json(retrained / "result.json")
    assert bits(load_file(retrained / "weights.safetensors")) == bits(dict(net.state_dict()))
    expected = {
        "test_accuracy": tested["top1"], "test_loss": tested["loss"], "test_images": 360,
        "parameters": count_parameters(net), "parameters_with_auxiliary": count_parameters(net),
        "multiply_adds": multiply_adds(net, (1, 8, 8)),
    }  # fmt: skip
    assert {name: figures[name] for name in expected} == expected
    assert 0 <= figures["test_accuracy"] <= figures["test_top5"] <= 1


def test_a_saved_network_tested_again_gives_its_figures(retrained: Path, tmp_path: Path) -> None:
    figures = read_json(retrained / "result.json")
    names = ("loss", "accuracy", "top5", "images")
    loss, top1, top5, images = (figures[f"test_{name}"] for name in names)
    tested = {"loss": loss, "top1": top1, "top5": top5, "images": images}
    assert evaluate_run(retrained) == tested
    with pytest.raises(SettingsError, match=r"holds no weights\.safetensors; finish"):
        evaluate_run(tmp_path)


def test_evaluation_counts_every_picture_once_and_restores_the_mode(retrained: Path) -> None:
    net = build_network(config(), 10, 1)
    net.load_state_dict(load_file(retrained / "weights.safetensors"))
    images = load_images("digits", Path(), "test", max_images=9)
    for training in (True, False):
        net.train(training)
        by_fours, whole = evaluate(net, images, 4), evaluate(net, images, 100)
        assert by_fours["loss"] == pytest.approx(whole["loss"])
        assert (by_fours["top1"] * 9) % 1 == pytest.approx(0, abs=1e-9)
        assert net.training is training


def test_errors_are_in_percent_and_of_five_classes_without_a_top_5() -> None:
    assert retraining.errors_line(0.0276, 0.001, 10) == "top-1 error 2.76 %, top-5 error 0.10 %"
    assert retraining.errors_line(0.0276, 0.0, 5) == "top-1 error 2.76 %"


def test_the_test_images_are_read_once_and_only_after_the_last_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def spy(dataset: str, root: Path, split: Any, *sizes: int) -> ImageSet:
        seen.append(split)
        return load_images(dataset, root, split, *sizes)

    monkeypatch.setattr(retraining, "load_images", spy)
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

    monkeypatch.setattr(retraining, "load_images", no_test)
    given = config(tmp_path / "run", holdout=0.3, max_images=101, max_steps=0, batch_size=16)
    assert torch.equal(Retraining(given).train.images, whole.images[:71])
    result = retrain(given)
    assert result.figures["test_images"] == 30  # of 30.3
    assert result.figures["tested_on"] == "held-out training images"
    net = build_network(given, 10, 1)
    net.load_state_dict(load_file(result.path / "weights.safetensors"))
    tested = evaluate(net, whole.select(slice(71, None)), 16)
    assert tested["loss"] == result.figures["test_loss"] == evaluate_run(result.path)["loss"]
