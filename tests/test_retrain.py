"""Retraining a cell on small images: the recipe, its step, the test images read once, a holdout."""

import copy
import json
from pathlib import Path

import pytest
import torch
from fuzz_tools import Patch
from kind_tools import RETRAIN, stop_after
from safetensors.torch import load_file
from same_bits import bits
from torch.nn import functional as F

from darts_lib import retrain as retraining
from darts_lib.cost.complexity import count_parameters, multiply_adds
from darts_lib.data.images import Batch, ImageSet, load_images, load_splits
from darts_lib.engine.files import unpack
from darts_lib.engine.folder import read_json
from darts_lib.engine.refusals import SettingsError
from darts_lib.genotype import PUBLISHED
from darts_lib.retrain import Retraining, evaluate, evaluate_run, retrain


def config(path: Path | str = "", **given: object) -> retraining.RetrainConfig:
    given = {**RETRAIN, "auxiliary": False, "run_dir": str(path), **given}
    return retraining.RetrainConfig.create(**given)


def started(**given: object) -> tuple[Retraining, Batch]:
    """Return a retraining of three cells with an auxiliary head, and a batch."""
    run = Retraining(config(layers=3, auxiliary=True, **given))
    run.drop_path.fill_(0.2)
    (batch,) = next(run.batches(torch.Generator().manual_seed(0)))
    return run, batch


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


@pytest.mark.parametrize("e", [0.0, 0.1, 0.4])
def test_label_smoothing_is_the_written_out_target_and_the_head_has_its_weight(e: float) -> None:
    """The target is (1 - e) onehot + e / K."""
    run = Retraining(config(label_smoothing=e, auxiliary_weight=0.4))
    logits, auxiliary = torch.randn(2, 6, 9, dtype=torch.float64)
    labels = torch.tensor([0, 8, 3, 3, 1, 5])
    target = (1 - e) * F.one_hot(labels, 9).double() + e / 9
    alone, head = (-(target * x.log_softmax(1)).sum() / 6 for x in (logits, auxiliary))
    by_hand = alone + 0.4 * head
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
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.02)


def test_the_result_is_that_of_the_network_after_the_last_epoch() -> None:
    """And the saved network tested again gives its figures."""
    retrained, net = retrain(config()).path, config().network(10, 1)
    net.load_state_dict(unpack(retrained / "checkpoint.pt")["state"]["network"])
    assert bits(load_file(retrained / "weights.safetensors")) == bits(dict(net.state_dict()))
    tested = evaluate_run(retrained)
    assert tested == evaluate(net, load_images("digits", Path(), "test"), 8)
    expected = {
        "test_accuracy": tested["top1"], "test_loss": tested["loss"], "test_images": 360,
        "test_top5": tested["top5"], "multiply_adds": multiply_adds(net, (1, 8, 8)),
        "parameters": count_parameters(net), "parameters_with_auxiliary": count_parameters(net),
    }  # fmt: skip
    figures = read_json(retrained / "result.json")
    assert {name: figures[name] for name in expected} == expected
    assert 0 <= figures["test_accuracy"] <= figures["test_top5"] <= 1
    with pytest.raises(SettingsError, match="is no run folder"):
        evaluate_run(retrained.parent)


def test_evaluation_counts_every_picture_once_and_restores_the_mode() -> None:
    net = config().network(10, 1)
    images = load_images("digits", Path(), "test", max_images=9)
    for training in (True, False):
        net.train(training)
        by_fours, whole = evaluate(net, images, 4), evaluate(net, images, 100)
        assert by_fours == pytest.approx(whole)
        assert (by_fours["top1"] * 9) % 1 == pytest.approx(0, abs=1e-9)
        assert net.training is training


@pytest.fixture
def read(monkeypatch: Patch) -> list[str]:
    """Return the splits of images that are taken, as they are."""
    taken: list[str] = []

    class Spied(dict[str, ImageSet]):
        def __getitem__(self, split: str) -> ImageSet:
            taken.append(split)
            return super().__getitem__(split)

    monkeypatch.setattr(
        retraining, "load_splits", lambda *given, **options: Spied(load_splits(*given, **options))
    )
    return taken


def test_the_test_images_are_read_once_and_only_after_the_last_epoch(read: list[str]) -> None:
    settings = config()
    with pytest.raises(KeyboardInterrupt):
        retrain(settings, stop_after(2))
    assert read == ["train"], "a stopped run has not seen the test images"
    retrain(settings, lambda row: read.append(f"epoch {row['epoch']}"))
    retrain(settings)
    assert read == ["train", "train", "epoch 3", "test"], "a finished run is not tested again"


def test_a_holdout_teaches_nobody_and_takes_the_place_of_test_images(read: list[str]) -> None:
    whole = load_images("digits", Path(), "train", max_images=101)
    given = config(holdout=0.3, max_images=101, max_steps=0, batch_size=16)
    assert torch.equal(Retraining(given).train.images, whole.images[:71])
    result = retrain(given)
    assert result.figures["test_images"] == 30  # of 30.3
    assert result.figures["tested_on"] == "held-out training images"
    net = given.network(10, 1)
    net.load_state_dict(load_file(result.path / "weights.safetensors"))
    tested = evaluate(net, whole.select(slice(71, None)), 16)
    assert tested["loss"] == result.figures["test_loss"] == evaluate_run(result.path)["loss"]
    assert set(read) == {"train"}, "choosing among cells must not read the test images"
