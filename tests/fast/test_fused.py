"""The fused supernet is the plain one's function: values, both gradients, second order."""

from collections.abc import Sequence

import pytest
import torch
from fuzz_tools import Patch
from torch import Tensor, nn
from torch.func import functional_call

from darts_lib import operations
from darts_lib.bilevel import InnerStep, Loss, architecture_gradient
from darts_lib.fast import fan
from darts_lib.fast.fused import FusedSupernet, stacked
from darts_lib.kernels.depthwise import over_phases
from darts_lib.kernels.pointwise import as_matrices
from darts_lib.relaxation import Supernet, mix
from darts_lib.search_space import EXTRA_PRIMITIVES, KINDS, PRIMITIVES, edges


def pair(
    channels: int, layers: int, nodes: int, primitives: Sequence[str], in_channels: int = 1
) -> tuple[Supernet, FusedSupernet]:
    shape = (channels, layers, nodes, 5, in_channels, primitives)
    plain, fused = Supernet(*shape).double(), FusedSupernet(*shape).double()
    fused.load_plain(plain.state_dict())
    return plain, fused


def random_alphas(nodes: int, primitives: Sequence[str]) -> dict[str, Tensor]:
    shape = (len(edges(nodes)), len(primitives))
    return {kind: torch.randn(shape, dtype=torch.float64, requires_grad=True) for kind in KINDS}


def all_gradients(
    net: Supernet, images: Tensor, alphas: dict[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor], list[Tensor]]:
    logits, weights = net(images, mix(alphas)), dict(net.named_parameters())
    loss = nn.functional.cross_entropy(logits, torch.arange(len(images)) % 5)
    wanted = [*weights.values(), *alphas.values()]
    found = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
    return logits, dict(zip(weights, found, strict=False)), list(found[len(weights) :])


def assert_same(plain: Supernet, fused: FusedSupernet, images: Tensor, nodes: int) -> None:
    alphas = random_alphas(nodes, plain.primitives)
    expected = all_gradients(plain, images, alphas)
    for layout in (torch.contiguous_format, torch.channels_last):
        batch = images.contiguous(memory_format=layout)
        logits, by_weight, by_alpha = all_gradients(fused, batch, alphas)
        found = logits, fused.to_plain(by_weight), by_alpha
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.fixture(params=["as on the CPU", "as on CUDA"])
def form(request: pytest.FixtureRequest, monkeypatch: Patch) -> None:
    """Compute the separable candidates in the form that is fast on this device, or on that."""
    if request.param == "as on CUDA":
        monkeypatch.setattr(fan, "fast_in_phases", fan.has_whole_phases)
        monkeypatch.setattr(fan, "fast_form", lambda w, n: as_matrices(w, n) if w else [])
        monkeypatch.setattr(fan, "depthwise", over_phases)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize(("channels", "layers", "nodes", "size"), [
    (4, 4, 4, (8, 8)), (2, 3, 3, (7, 9)), (6, 3, 1, (9, 6)), (2, 2, 2, (15, 16)),
    (2, 1, 5, (5, 4)),
])  # fmt: skip
def test_equal_for_any_shape(channels: int, layers: int, nodes: int, size: tuple[int, int]) -> None:
    torch.manual_seed(channels)
    plain, fused = pair(channels, layers, nodes, PRIMITIVES)
    assert_same(plain, fused, torch.randn(4, 1, *size, dtype=torch.float64), nodes)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("name", [*PRIMITIVES, *EXTRA_PRIMITIVES])
def test_equal_for_each_primitive_alone(name: str) -> None:
    torch.manual_seed(1)
    plain, fused = pair(2, 3, 2, (name,), in_channels=3)
    assert_same(plain, fused, torch.randn(3, 3, 8, 8, dtype=torch.float64), 2)


def test_an_operation_that_is_added_is_computed_edge_by_edge(monkeypatch: Patch) -> None:
    conv = lambda c, stride, _: nn.Sequential(nn.Conv2d(c, c, 3, stride, 1), nn.Tanh())  # noqa: E731
    monkeypatch.setitem(operations.OPERATIONS, "tanh_conv", conv)
    torch.manual_seed(2)
    plain, fused = pair(2, 3, 3, ("tanh_conv", "skip_connect", "none", "sep_conv_5x5"))
    assert [*fused.cells[0].fans[0].other] == ["tanh_conv"]
    assert_same(plain, fused, torch.randn(3, 1, 8, 8, dtype=torch.float64), 3)


def test_second_order_alpha_gradients_are_equal() -> None:
    torch.manual_seed(3)
    plain, fused = pair(2, 3, 3, PRIMITIVES)
    alphas = random_alphas(3, PRIMITIVES)
    images, labels = torch.randn(2, 6, 1, 8, 8, dtype=torch.float64), torch.arange(6) % 5

    def loss_of(net: Supernet, batch: int) -> Loss:
        return lambda weights, alphas: nn.functional.cross_entropy(
            functional_call(net, dict(weights), (images[batch], mix(alphas))), labels
        )

    buffers = {n: torch.randn_like(p) for n, p in plain.named_parameters()}
    totals = []
    for net, own in ((plain, buffers), (fused, stacked(buffers, fused.plain_names()))):
        inner, weights = InnerStep(0.1, 0.9, 3e-2, own), dict(net.named_parameters())
        given = (loss_of(net, 0), loss_of(net, 1), weights, alphas, inner)
        routes = ("finite_difference", "exact", "unrolled")
        totals.append([architecture_gradient(*given, route).total for route in routes])
    torch.testing.assert_close(totals[1], totals[0], rtol=1e-7, atol=1e-9)


def test_the_same_seed_gives_the_plain_weights_which_convert_both_ways() -> None:
    """As drawn from the seed, and loaded; and the generator stands where it stood."""
    torch.manual_seed(5)
    plain = Supernet(4, 3)
    after = torch.rand(1)
    torch.manual_seed(5)
    fused = FusedSupernet(4, 3)
    assert torch.equal(torch.rand(1), after)
    loaded = FusedSupernet(4, 3)
    loaded.load_plain(plain.state_dict())
    for net in (fused, loaded):
        torch.testing.assert_close(net.to_plain(), dict(plain.state_dict()), rtol=0, atol=0)
    assert sum(p.numel() for p in fused.parameters()) == sum(p.numel() for p in plain.parameters())
