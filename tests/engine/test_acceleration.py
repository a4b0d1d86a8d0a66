"""What `auto` means on each device; compiled cells; a recorded step's bookkeeping."""

import contextlib
import functools
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from fuzz_tools import Patch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.func import functional_call

from darts_lib.bilevel import InnerStep, Loss, architecture_gradient
from darts_lib.engine.acceleration import Acceleration, Captured
from darts_lib.engine.batches import seed_epoch
from darts_lib.engine.refusals import SettingsError
from darts_lib.fast.fan import Fan
from darts_lib.fast.fused import FusedSupernet
from darts_lib.relaxation import MixedOp, mix
from darts_lib.search import Search, SearchConfig
from darts_lib.search_space import KINDS, PRIMITIVES, CellPlan

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def config(**given: object) -> SearchConfig:
    return SearchConfig.create(**{"scale": "laptop", **given})


@pytest.mark.parametrize(("given", "device", "bfloat16", "words"), [
    ({}, CPU, True, "eager float32"),
    ({"amp": "on", "compile": "on"}, CPU, True, "amp, compile"),
    ({}, CUDA, True, "amp, graph"),
    ({}, CUDA, False, "graph"),
    ({"route": "exact"}, CUDA, True, "amp"),
    ({"amp": "off", "graph": "off"}, CUDA, True, "eager float32"),
])  # fmt: skip
def test_auto_is_bfloat16_and_a_graph_on_cuda(
    given: Any, device: torch.device, bfloat16: bool, words: str, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: bfloat16)
    assert str(Acceleration.of(config(**given), device)) == words


@pytest.mark.parametrize(("amp", "dtype"), [("auto", torch.float32), ("on", torch.bfloat16)])
def test_autocast_is_on_only_where_it_was_asked_for(amp: str, dtype: torch.dtype) -> None:
    with Acceleration.of(config(amp=amp), CPU).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


@pytest.mark.deep
def test_a_compiled_source_gives_the_same_value_and_gradients() -> None:
    """One fan of four channels: whole cells take minutes to compile on two cores."""
    torch.manual_seed(0)
    primitives = [name for name in PRIMITIVES if "5x5" not in name]
    edges = {i: MixedOp(4, 1, primitives) for i in range(2)}
    fan = Fan(CellPlan("normal", 4, 4, 4, False), 1, primitives, edges)
    for weight in fan.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    state = torch.randn(4, 4, 8, 8).contiguous(memory_format=torch.channels_last)
    weights = torch.softmax(torch.randn(2, len(primitives)), dim=-1)

    def results() -> list[Tensor]:
        inputs = [state.clone().requires_grad_(), weights.clone().requires_grad_()]
        spread = inputs[1].t().repeat_interleave(4, dim=1)
        out = fan(inputs[0], dict(zip(primitives, spread.unbind(), strict=True)))
        found = torch.autograd.grad((out * out.detach().cos()).sum(), [*inputs, *fan.parameters()])
        return [out, *found]

    eager = results()
    fan.compile()
    torch.testing.assert_close(results(), eager, rtol=1e-3, atol=1e-4)


@pytest.mark.deep
def test_a_compiled_supernet_is_compiled_once_and_has_the_eager_gradients(
    monkeypatch: Patch,
) -> None:
    """All candidates are in every pass, so other alphas and weights are no other program.

    There are three, by the gradients that a pass is for: by weights, by both, by alphas. A compiler
    that counts, and leaves the graph as it is, takes the place of the real one.
    """
    compiler = CompileCounter()
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=compiler))
    torch.manual_seed(0)
    net = FusedSupernet(2, 1, 1, 10, 1, ("none", "skip_connect", "sep_conv_3x3"))
    weights = dict(net.named_parameters())
    images, labels = torch.randn(2, 6, 1, 8, 8), torch.arange(6)

    def loss_of(batch: int) -> Loss:
        return lambda weights, alphas: nn.functional.cross_entropy(
            functional_call(net, dict(weights), (images[batch], mix(alphas))), labels
        )

    def total(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        alphas = {kind: torch.randn(2, 3, requires_grad=True) for kind in KINDS}
        inner = InnerStep(0.1 / (1 + seed), 0.0, 0.0)
        found = architecture_gradient(loss_of(0), loss_of(1), weights, alphas, inner)
        return list(found.total.values())

    eager = [total(seed) for seed in range(4)]
    Acceleration.of(config(compile="on"), CPU).compiled(net.cells)
    for seed in range(4):
        torch.testing.assert_close(total(seed), eager[seed], rtol=1e-3, atol=1e-5)
        assert compiler.frame_count == 3
    torch._dynamo.reset()


@pytest.fixture
def events(monkeypatch: Patch) -> list[str]:
    """Put a recorder in the place of CUDA; return what is done, in order."""
    events: list[str] = []

    @contextlib.contextmanager
    def recording(graph: Any, pool: object, stream: object, capture_error_mode: str):
        graph.pool.return_value = pool or object()
        assert stream is mocks["Stream"](), "a stream of the tensors' device, not torch's own"
        assert capture_error_mode == "thread_local", "a loader's threads may use CUDA meanwhile"
        events.append("record")
        yield

    mocks = {name: MagicMock() for name in ("Stream", "current_stream", "stream", "device")}
    fakes = {
        **{**mocks, "CUDAGraph": lambda: MagicMock(), "graph": recording},
        "set_rng_state": lambda state, device: events.append(f"{state} of {device}"),
        "get_rng_state": lambda _: f"random after {len(events)}",
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return events


@pytest.fixture
def captured(events: list[str]) -> Any:
    """Return a captured step `weight += x.mean()`."""
    weight = torch.zeros(())

    def step(batch: tuple[Tensor]) -> Tensor:
        events.append("step")
        return weight.add_(batch[0].mean()).clone()

    return Captured(step, lambda: [weight])


def test_a_recorded_step_warms_up_and_leaves_no_trace(captured: Any, events: list[str]) -> None:
    (weight,) = captured.state()
    captured((torch.ones(4),))
    assert events == ["step"]
    assert float(weight) == 1
    captured((torch.full((4,), 2.0),))
    assert events == ["step", *["step"] * 3, "record", "step", "random after 1 of cpu"]
    assert float(weight) == 1, "the warm-up was put back; the fake replay adds nothing"
    (recording,) = captured.recordings.values()
    assert recording.inputs[0].tolist() == [2.0] * 4
    captured((torch.full((4,), 3.0),))
    assert recording.inputs[0].tolist() == [3.0] * 4, "a replay reads the fixed buffer"
    assert recording.graph.replay.call_count == 2
    events.clear()
    captured((torch.full((2,), 5.0),))
    assert (events, float(weight)) == (["step"], 6), "a smaller last batch runs eagerly"


@pytest.mark.parametrize(("sizes", "recorded_sizes"), [
    ((4, 2, 4), [4]), ((2, 4, 4), [4]), ((2, 4, 3, 4, 4), [4]),
    ((2, 4, 4, 3, 2, 4, 4, 3), [4, 2, 3]),
    ((1, 2, 3, 4, 1, 2, 3, 4, 4), [1, 2, 3]),
])  # fmt: skip
def test_shapes_that_come_again_are_recorded_in_the_same_memory_up_to_three(
    sizes: tuple[int, ...], recorded_sizes: list[int], captured: Any
) -> None:
    for size in sizes:
        captured((torch.ones(size),))
    recordings = list(captured.recordings.values())
    assert [len(one.inputs[0]) for one in recordings] == recorded_sizes
    assert len({one.graph.pool() for one in recordings}) == 1
    for size, one in zip(recorded_sizes, recordings, strict=True):
        captured((torch.full((size,), 7.0),))
        assert one.inputs[0].tolist() == [7.0] * size, "each replay fills the buffers of its shape"


@pytest.mark.usefixtures("events")  # in place of CUDA
def test_a_searchs_epoch_is_replayed_though_a_first_batch_is_short(monkeypatch: Patch) -> None:
    """As on an H200, where a whole epoch ran eagerly: nine times slower, and all tests passed."""
    graph = MagicMock()
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)
    monkeypatch.setattr(Acceleration, "of", lambda _, device: Acceleration(device, *3 * [False]))
    monkeypatch.setattr(Acceleration, "recorded", lambda _, step, state: Captured(step, state))
    run = Search(config(max_images=160, batch_size=24, channels=2, layers=1, order=1))
    sizes = [(len(train[0]), len(valid[0])) for train, valid in run.batches(seed_epoch(0, 0, CPU))]
    assert sizes == [(24, 8), (24, 24), (24, 24), (8, 24)]
    run.epoch(0)
    steps, tests = 1, 2  # replayed: the third of four, and the second and third of four
    assert graph.replay.call_count == steps + tests
    run.epoch(1)
    assert graph.replay.call_count == steps + tests + 4 + 4, "the short batches too"
    run.alphas = {kind: torch.ones_like(alphas) for kind, alphas in run.alphas.items()}
    run.evaluate()
    inputs = [x for one in run._recorded_sums.recordings.values() for x in one.inputs]
    read = [x for x in inputs if x.shape == run.alphas["normal"].shape]
    assert [x.unique().tolist() for x in read] == [[1.0]] * 4, "chapter 04 puts others there"


@contextlib.contextmanager
def refusing(*_: object, **__: object):
    try:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")
    finally:
        raise RuntimeError("the recording was broken off")  # as ending it says
    yield


def full(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(("graph", "error", "words"), [
    (refusing, SettingsError, r"\(operation not permitted.*graph='off'"),
    (full, torch.OutOfMemoryError, "CUDA out of memory"),
])  # fmt: skip
def test_where_recording_fails_the_run_ends_with_the_first_error_and_the_way_out(
    graph: object, error: type[Exception], words: str, captured: Any, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(torch.cuda, "graph", graph)
    captured((torch.ones(4),))
    with pytest.raises(error, match=words):
        captured((torch.ones(4),))
