"""On CUDA: recorded steps are the eager ones, the supernet is the CPU's, float32 where needed."""

import contextlib
import copy
from collections.abc import Iterator

import pytest
import torch
from fuzz_tools import Patch

from darts_lib import bilevel
from darts_lib.data.images import Batch
from darts_lib.engine.acceleration import Captured
from darts_lib.relaxation import Alphas, Supernet, initial_alphas, mix
from darts_lib.retrain import RetrainConfig
from darts_lib.search import Search, SearchConfig
from darts_lib.teaching.smooth_problem import SmoothProblem, relative_error, smooth_problem
from darts_lib.tools.benchmark import Size

CUDA = torch.device("cuda")
SIZE, SHORT = Size(8, 4, 16, 32), Size(8, 4, 16, 12)


def searched(graph: str, order: int, recompute: bool = False) -> Search:
    torch.manual_seed(0)
    return SIZE.start(CUDA, order=order, graph=graph, amp="off", recompute=recompute)


def batch_of(size: Size) -> Batch:
    images, labels = size.batch_of(CUDA)
    return images.double(), labels


@pytest.mark.parametrize(("order", "recompute"), [(1, False), (2, False), (2, True)])
def test_a_recorded_search_follows_the_eager_one(order: int, recompute: bool) -> None:
    """In float64: Adam's first steps have the size of their rate, so noise would grow."""
    torch.manual_seed(1)
    pairs = [(SIZE, SIZE), (SIZE, SHORT), (SHORT, SIZE)]  # three recordings in the same memory
    batches = [(batch_of(train), batch_of(valid)) for _ in range(4) for train, valid in pairs]
    ends = []
    for graph in ("off", "on"):
        run = searched(graph, order, recompute)
        run.net.double()
        for value in run.alphas.values():
            value.data = value.double()
        run.optimiser.state.clear()  # its buffers are float32
        for weight in run.weights.values():
            run.optimiser.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        for number, (train, valid) in enumerate(batches):
            run.rate.fill_(0.025 / (number + 1))  # the cosine must reach a recorded step
            total = run.take(train, valid)
        ends.append((run.alphas, dict(run.weights), total))
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("order", [1, 2])
def test_in_bfloat16_too_a_recorded_search_follows_the_eager_one(order: int) -> None:
    """Branches that race would read memory that is another's by now."""
    torch.manual_seed(1)
    batches = [(SIZE.batch_of(CUDA), SIZE.batch_of(CUDA)) for _ in range(6)]
    losses = []
    for graph in ("off", "on"):
        torch.manual_seed(0)
        given = {"graph": graph, "amp": "on", "alpha_learning_rate": 3e-4}
        run = SIZE.start(CUDA, order=order, **given)
        losses.append([float(run.take(*batch)[0]) for batch in batches])
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)


def test_whole_epochs_are_recorded() -> None:
    given = {"scale": "laptop", "device": "cuda", "max_images": 400, "batch_size": 32}
    run = Search(SearchConfig.create(**given, epochs=2))
    rows = [run.epoch(epoch) for epoch in range(2)]
    for step in (run.recorded, run._recorded_sums):
        assert isinstance(step, Captured)
        sizes = {shapes[0][0][0] for shapes in step.recordings}
        assert {32, 8} <= sizes, "the common batch, and the last of 200 pictures"
    assert rows[1]["train_loss"] < rows[0]["train_loss"] < 3
    trained = run.evaluate()
    run.alphas = {
        kind: 9 * torch.eye(*value.shape, device=CUDA) for kind, value in run.alphas.items()
    }
    assert run.evaluate() != trained, "a recorded test follows the alphas that are put there"


def test_a_recorded_retraining_follows_the_eager_one() -> None:
    torch.manual_seed(1)
    batches = [batch_of(SIZE) for _ in range(6)]
    ends = []
    for graph in ("off", "on"):
        given = {"scale": "laptop", "drop_path": 0.3, "graph": graph, "amp": "off"}
        run = SIZE.retraining(RetrainConfig.create(**given, batch_size=32, device="cuda"))
        run.net.double()
        for slots in run.optimiser.state.values():
            slots["momentum_buffer"] = slots["momentum_buffer"].double()
        for number, batch in enumerate(batches):
            run.drop_path.fill_(0.1 * number)  # drawn in the step, from the run's generator
            torch.cuda.manual_seed(number)
            total = run.take(batch)
        ends.append((dict(run.net.state_dict()), total))
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-6, atol=1e-8)


def test_a_recorded_step_skips_a_bad_gradient_and_tells() -> None:
    run = searched("on", 2)
    train, valid = SIZE.batch_of(CUDA), SIZE.batch_of(CUDA)
    for _ in range(3):
        run.take(train, valid)
    before = [weight.detach().clone() for weight in run.weights.values()]
    run.take((train[0] * torch.nan, train[1]), valid)
    assert all(torch.equal(a, b) for a, b in zip(before, run.weights.values(), strict=True))
    with pytest.raises(FloatingPointError, match="the loss was no number"):
        run.guard.check(1, 0.025, "here")


@pytest.fixture
def tf32() -> Iterator[None]:
    """Allow TF32 for products and convolutions, and put back what was allowed."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = True
    yield
    matmul.allow_tf32, cudnn.allow_tf32 = before


def implicit_error() -> float:
    """Return how far the finite difference in float32 is from the exact product in float64."""

    def product(problem: SmoothProblem, of: object) -> dict[str, torch.Tensor]:
        draw = torch.Generator().manual_seed(3)
        weights = problem.weights.values()
        v = [torch.randn(w.shape, generator=draw, dtype=torch.float64).to(w) for w in weights]
        found = of(bilevel.Problem(*problem.arguments), v)
        return {k: h.cpu().double() for k, h in zip(problem.alphas, found, strict=True)}

    exact = product(smooth_problem(), bilevel.exact_product)
    single = smooth_problem(dtype=torch.float32, device=CUDA)
    return relative_error(product(single, bilevel.finite_difference), exact)


@pytest.mark.usefixtures("tf32")
def test_the_implicit_term_is_that_of_float64_though_tf32_is_allowed(monkeypatch: Patch) -> None:
    """On the smooth net, with one and the same v: in TF32 the perturbation drowns in rounding."""
    assert implicit_error() < 1e-2
    monkeypatch.setattr(bilevel, "full_precision", contextlib.nullcontext)
    assert implicit_error() > 2e-2, "it would be wrong"


def test_the_trial_tells_the_memory_of_a_step_and_recomputing_holds_less() -> None:
    """It is what torch has allocated at the peak, so within the cache's rounding the same again."""
    peaks = []
    for recompute in (False, True):
        run = searched("off", 2, recompute)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run.step(SIZE.batch_of(CUDA), SIZE.batch_of(CUDA))
        measured = torch.cuda.max_memory_allocated() - before
        peaks.append(run.trial()[1])
        assert peaks[-1] == pytest.approx(measured, rel=0.2)
    assert peaks[1] < peaks[0]


def alpha_gradients(net: Supernet, images: torch.Tensor, alphas: Alphas) -> Alphas:
    loss = net(images, mix(alphas)).square().mean()
    values = torch.autograd.grad(loss, list(alphas.values()))
    return dict(zip(alphas, values, strict=True))


def test_alpha_gradients_agree_with_the_cpu_in_float64() -> None:
    torch.manual_seed(0)
    on_cpu = Supernet(channels=4, layers=3).double()
    on_gpu = copy.deepcopy(on_cpu).cuda()
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    alphas = {k: v.detach().double().requires_grad_() for k, v in initial_alphas().items()}
    alphas_gpu = {k: v.detach().cuda().requires_grad_() for k, v in alphas.items()}
    expected = alpha_gradients(on_cpu, images, alphas)
    for kind, found in alpha_gradients(on_gpu, images.cuda(), alphas_gpu).items():
        torch.testing.assert_close(found.cpu(), expected[kind], rtol=1e-8, atol=1e-12)
