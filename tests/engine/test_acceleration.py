"""What `auto` means on each device; compiled cells; a recorded step's bookkeeping."""

import contextlib
import functools
from collections.abc import Iterator

import pytest
import torch
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
from darts_lib.search_space import KINDS, PRIMITIVES

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
    given: dict[str, str],
    device: torch.device,
    bfloat16: bool,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: bfloat16)
    assert str(Acceleration.of(config(**given), device)) == words


def test_a_graph_without_cuda_is_refused() -> None:
    with pytest.raises(SettingsError, match="graph='on' needs CUDA, not 'cpu'"):
        config(graph="on", device="cpu")


@pytest.mark.parametrize(("amp", "dtype"), [("auto", torch.float32), ("on", torch.bfloat16)])
def test_autocast_is_on_only_where_it_was_asked_for(amp: str, dtype: torch.dtype) -> None:
    with Acceleration.of(config(amp=amp), CPU).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


@pytest.mark.deep
def test_a_compiled_source_gives_the_same_value_and_gradients() -> None:
    """One fan of four channels: whole cells take minutes to compile on two cores."""
    torch.manual_seed(0)
    primitives = [name for name in PRIMITIVES if "5x5" not in name]
    fan = Fan(4, 1, 1, primitives, {i: MixedOp(4, 1, primitives) for i in range(2)})
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


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[CompileCounter]:
    """Put a compiler that counts, and leaves the graph as it is, in the place of the real one."""
    counter = CompileCounter()
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counter))
    yield counter
    torch._dynamo.reset()


@pytest.mark.deep
def test_a_compiled_supernet_is_compiled_once_and_has_the_eager_gradients(
    compiler: CompileCounter,
) -> None:
    """All candidates are in every pass, so other alphas and weights are no other program.

    There are three, by the gradients that a pass is for: by weights, by both, by alphas.
    """
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
    config = SearchConfig.create(scale="laptop", compile="on")
    Acceleration.of(config, torch.device("cpu")).compiled(net.cells)
    counts, compiled = [], []
    for seed in range(4):
        compiled.append(total(seed))
        counts.append(compiler.frame_count)
    assert counts == [3] * 4
    torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=1e-5)


# A recorded step, its CUDA replaced by a recorder ------------------------------------------------


class FakeGraph:
    """Replays what was run while it was open, as a CUDA graph does."""

    def __init__(self) -> None:
        self.replayed = 0
        self.works_in: object = None

    def pool(self) -> object:
        return self.works_in

    def replay(self) -> None:
        self.replayed += 1


def recorded(monkeypatch: pytest.MonkeyPatch) -> tuple[Captured, Tensor, list[str]]:
    """Return a captured step `weight += x.mean()`, its weight, and what was done in order."""
    events: list[str] = []
    weight = torch.zeros(())

    def step(batch: tuple[Tensor]) -> Tensor:
        events.append("step")
        weight.add_(batch[0].mean())
        return weight.clone()

    class Stream:
        def wait_stream(self, _: object) -> None:
            pass

    @contextlib.contextmanager
    def recording(graph: FakeGraph, pool: object, stream: object, capture_error_mode: str):  # type: ignore[no-untyped-def]
        graph.works_in = pool or f"memory of {len(events)}"
        assert isinstance(stream, Stream), "a stream of the tensors' device, not torch's own"
        assert capture_error_mode == "thread_local", "a loader's threads may use CUDA meanwhile"
        events.append("record")
        yield

    def restored(state: object, device: torch.device) -> None:
        events.append(f"{state} of {device}")

    fakes = {
        **dict.fromkeys(("Stream", "current_stream"), Stream),
        **dict.fromkeys(("stream", "device"), lambda _: contextlib.nullcontext()),
        **{"CUDAGraph": FakeGraph, "graph": recording, "set_rng_state": restored},
        "get_rng_state": lambda _: f"random after {len(events)}",
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return Captured(step, lambda: [weight]), weight, events


def test_a_recorded_step_begins_eagerly_then_warms_up_and_leaves_no_trace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    captured, weight, events = recorded(monkeypatch)
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
    assert isinstance(recording.graph, FakeGraph)
    assert recording.graph.replayed == 2
    events.clear()
    captured((torch.full((2,), 5.0),))
    assert (events, float(weight)) == (["step"], 6), "a smaller last batch runs eagerly"


@pytest.mark.parametrize(("sizes", "recorded_sizes"), [
    ((4, 2, 4), [4]),
    ((2, 4, 4), [4]),
    ((2, 4, 3, 4, 4), [4]),
    ((2, 4, 4, 3, 2, 4, 4, 3), [4, 2, 3]),
    ((1, 2, 3, 4, 1, 2, 3, 4, 4), [1, 2, 3]),
])  # fmt: skip
def test_shapes_that_come_again_are_recorded_in_the_same_memory_up_to_three(
    sizes: tuple[int, ...], recorded_sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    captured, _, _ = recorded(monkeypatch)
    for size in sizes:
        captured((torch.ones(size),))
    recordings = list(captured.recordings.values())
    assert [len(one.inputs[0]) for one in recordings] == recorded_sizes
    assert len({one.graph.pool() for one in recordings}) == 1
    for size, one in zip(recorded_sizes, recordings, strict=True):
        captured((torch.full((size,), 7.0),))
        assert one.inputs[0].tolist() == [7.0] * size, "each replay fills the buffers of its shape"


def test_a_searchs_epoch_is_replayed_though_its_first_validation_batch_is_the_short_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on an H200, where a whole epoch ran eagerly: nine times slower, and all tests passed."""
    recorded(monkeypatch)  # in place of CUDA
    replays: list[FakeGraph] = []
    monkeypatch.setattr(FakeGraph, "replay", lambda graph: replays.append(graph))
    monkeypatch.setattr(Acceleration, "of", lambda _, device: Acceleration(device, *3 * [False]))
    monkeypatch.setattr(Acceleration, "recorded", lambda _, step, state: Captured(step, state))
    given = {"scale": "laptop", "max_images": 160, "batch_size": 24, "channels": 2, "layers": 1}
    run = Search(SearchConfig.create(**given, order=1))
    sizes = [(len(train[0]), len(valid[0])) for train, valid in run.batches(seed_epoch(0, 0, CPU))]
    assert sizes == [(24, 8), (24, 24), (24, 24), (8, 24)]
    run.epoch(0)
    steps, tests = 1, 2  # replayed: the third of four, and the second and third of four
    assert len(replays) == steps + tests
    run.epoch(1)
    assert len(replays) == steps + tests + 4 + 4, "the short batches too"
    run.alphas = {kind: torch.ones_like(alphas) for kind, alphas in run.alphas.items()}
    run.evaluate()
    inputs = [x for one in run._recorded_sums.recordings.values() for x in one.inputs]
    read = [x for x in inputs if x.shape == run.alphas["normal"].shape]
    assert [x.unique().tolist() for x in read] == [[1.0]] * 4, "chapter 04 puts others there"


@contextlib.contextmanager
def refusing(*_: object, **__: object):  # type: ignore[no-untyped-def]
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
    graph: object, error: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured, _, _ = recorded(monkeypatch)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    captured((torch.ones(4),))
    with pytest.raises(error, match=words):
        captured((torch.ones(4),))
