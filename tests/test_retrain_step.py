"""One step of a retraining: it never waits, changes its state in place, skips a bad gradient."""

import copy
import math

import pytest
import torch
from step_tools import NoWaiting
from torch.nn import functional as F

from darts_lib.data.images import Batch
from darts_lib.retrain_epoch import Retraining
from darts_lib.retrain_step import RetrainConfig

TINY = {"channels": 4, "layers": 3, "batch_size": 8, "scale": "laptop", "drop_path": 0.3}


def started(**given: object) -> tuple[Retraining, Batch]:
    run = Retraining(RetrainConfig.create(**{**TINY, **given}))
    run.drop_path.fill_(0.2)
    return run, next(iter(run.batches(torch.Generator().manual_seed(0))))


def test_nothing_in_a_step_waits_for_the_device() -> None:
    run, batch = started()
    with NoWaiting():
        run.step(batch)
        run.step(batch)


def test_put_back_the_next_step_gives_the_same_bits_in_the_same_places() -> None:
    """How a graph's warm-up leaves no trace: what a step changes is all in one list."""
    run, batch = started()
    run.step(batch)
    places = [tensor.data_ptr() for tensor in run._changed()]
    before = [tensor.detach().clone() for tensor in run._changed()]
    ends = []
    for _ in range(2):
        torch.manual_seed(1)  # drop path
        run.step(batch)
        ends.append([tensor.detach().clone() for tensor in run._changed()])
        with torch.no_grad():
            for tensor, value in zip(run._changed(), before, strict=True):
                tensor.copy_(value)
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    assert [tensor.data_ptr() for tensor in run._changed()] == places


def test_two_steps_against_plain_sgd() -> None:
    """Two, so that the momentum counts; settings large enough to be seen."""
    given = {"learning_rate": 0.1, "momentum": 0.7, "weight_decay": 0.02, "gradient_clip": 0.5}
    run, (images, labels) = started(**given, drop_path=0, auxiliary_weight=0.3)
    twin = copy.deepcopy(run.net)
    plain = torch.optim.SGD(twin.parameters(), 0.1, 0.7, weight_decay=0.02, foreach=False)
    for _ in range(2):
        run.step((images, labels))
        plain.zero_grad()
        logits, auxiliary = twin(images)
        loss = F.cross_entropy(logits, labels) + 0.3 * F.cross_entropy(auxiliary, labels)
        torch.autograd.backward(loss)
        assert torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5) > 0.5
        plain.step()
    torch.testing.assert_close(run.net.state_dict(), twin.state_dict(), rtol=1e-4, atol=1e-5)


def test_cutout_puts_a_box_of_zeros_into_every_training_picture() -> None:
    (_, (whole, _)), (_, (cut, _)) = started(cutout=0), started(cutout=4)
    changed = whole != cut
    assert torch.equal(cut[changed], torch.zeros(int(changed.sum())))
    assert changed.flatten(1).any(dim=1).all()


def test_a_bad_gradient_leaves_the_weights_and_is_told() -> None:
    run, (images, labels) = started()
    run.guard.begin()
    run.step((images, labels))
    before = [weight.detach().clone() for weight in run.net.parameters()]
    run.step((images * math.nan, labels))
    assert all(torch.equal(a, b) for a, b in zip(before, run.net.parameters(), strict=True))
    with pytest.raises(FloatingPointError, match=r"step 2 of epoch 3 \(loss nan"):
        run.guard.check(3, 0.01, "here")


def test_bfloat16_gives_nearly_the_same_step() -> None:
    losses = {}
    for amp in ("off", "on"):
        run, batch = started(amp=amp, drop_path=0, batch_size=64)
        total = run.step(batch)
        losses[amp] = float(total[0] / total[2])
        assert all(weight.dtype == torch.float32 for weight in run.net.parameters())
    assert losses["on"] == pytest.approx(losses["off"], rel=0.02)
    assert losses["on"] != losses["off"]
