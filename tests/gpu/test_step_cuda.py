"""The recorded step on CUDA: the same numbers as the eager one; float32 where it must be."""

from functools import partial

import pytest
import torch

from darts_lib.bilevel import architecture_gradient
from darts_lib.resident_memory import Size, measured_memory, random_step
from darts_lib.retrain_step import RetrainConfig, RetrainStep
from darts_lib.search_step import SearchStep
from darts_lib.smooth_problem import relative_error, smooth_problem
from darts_lib.step_cost import trace

CUDA = torch.device("cuda")
SIZE = Size(8, 4, 16, 32)


def searched(graph: str, order: int, amp: str = "off") -> SearchStep:
    torch.manual_seed(0)
    return SIZE.start(CUDA, order=order, graph=graph, amp=amp)


@pytest.mark.parametrize("order", [1, 2])
def test_a_recorded_search_follows_the_eager_one(order: int) -> None:
    torch.manual_seed(1)
    batches = [(SIZE.batch_of(CUDA), SIZE.batch_of(CUDA)) for _ in range(6)]
    ends = []
    for graph in ("off", "on"):
        run = searched(graph, order)
        for number, (train, valid) in enumerate(batches):
            run.rate.fill_(0.025 / (number + 1))  # the cosine must reach a recorded step
            total = run.step(train, valid)
        ends.append((run.alphas, dict(run.weights), total))
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-2, atol=1e-3)


def test_a_recorded_retraining_follows_the_eager_one() -> None:
    torch.manual_seed(1)
    batches = [SIZE.batch_of(CUDA) for _ in range(6)]
    ends = []
    for graph in ("off", "on"):
        torch.manual_seed(0)
        given = {"scale": "laptop", "drop_path": 0, "graph": graph, "amp": "off"}
        run = RetrainStep(RetrainConfig.create(**given), 10, 3, CUDA)
        for batch in batches:
            total = run.step(batch)
        ends.append((dict(run.net.state_dict()), total))
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-2, atol=1e-3)


def test_a_recorded_step_skips_a_bad_gradient_and_tells() -> None:
    run = searched("on", 2)
    train, valid = SIZE.batch_of(CUDA), SIZE.batch_of(CUDA)
    for _ in range(3):
        run.step(train, valid)
    before = [weight.detach().clone() for weight in run.weights.values()]
    run.step((train[0] * torch.nan, train[1]), valid)
    assert all(torch.equal(a, b) for a, b in zip(before, run.weights.values(), strict=True))
    with pytest.raises(FloatingPointError, match="step 4"):
        run.guard.check(1, 0.025, "here")


def test_the_implicit_term_is_that_of_float64_though_tf32_is_allowed() -> None:
    """On the smooth net: in TF32 the perturbation would drown in rounding."""
    exact = architecture_gradient(*smooth_problem().arguments, route="exact")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    single = smooth_problem(dtype=torch.float32, device=CUDA)
    found = architecture_gradient(*single.arguments, route="finite_difference")
    implicit = {kind: value.cpu().double() for kind, value in found.implicit.items()}
    assert relative_error(implicit, exact.implicit) < 1e-2


@pytest.mark.parametrize("recompute", [False, True])
def test_the_estimate_of_memory_is_within_a_fifth(recompute: bool) -> None:
    size = Size(16, 8, 32, 64)
    run = size.start(CUDA, order=2, recompute=recompute)
    estimate = trace(run, partial(random_step, size)).memory(CUDA)
    assert estimate == pytest.approx(measured_memory(size, CUDA, recompute), rel=0.2)
