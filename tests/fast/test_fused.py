"""The fused supernet is the plain one's function: values, both gradients, second order."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from darts_lib import operations
from darts_lib.bilevel import InnerStep, Loss, architecture_gradient
from darts_lib.fast import fan, separable
from darts_lib.fast.fan import JOINED
from darts_lib.fast.fused import FusedSupernet
from darts_lib.kernels.depthwise import over_phases
from darts_lib.kernels.pointwise import as_matrices
from darts_lib.relaxation import Supernet, initial_alphas
from darts_lib.search_space import EXTRA_PRIMITIVES, KINDS, PRIMITIVES, edges

TOLERANCE = {"rtol": 1e-9, "atol": 1e-11}


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
    logits = net(images, alphas)
    loss = nn.functional.cross_entropy(logits, torch.arange(len(images)) % 5)
    weights = dict(net.named_parameters())
    found = torch.autograd.grad(
        loss, [*weights.values(), *alphas.values()], allow_unused=True, materialize_grads=True
    )
    return logits, dict(zip(weights, found, strict=False)), list(found[len(weights) :])


def assert_same(plain: Supernet, fused: FusedSupernet, images: Tensor, nodes: int) -> None:
    alphas = random_alphas(nodes, plain.primitives)
    logits, weight_gradients, alpha_gradients = all_gradients(plain, images, alphas)
    for layout in (torch.contiguous_format, torch.channels_last):
        batch = images.contiguous(memory_format=layout)
        own_logits, own_weight_gradients, own_alpha_gradients = all_gradients(fused, batch, alphas)
        torch.testing.assert_close(own_logits, logits, **TOLERANCE)
        torch.testing.assert_close(own_alpha_gradients, alpha_gradients, **TOLERANCE)
        torch.testing.assert_close(
            fused.to_plain(own_weight_gradients), weight_gradients, **TOLERANCE
        )


@pytest.fixture(params=["as on the CPU", "as on CUDA"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute the separable candidates in the form that is fast on this device, or on that."""
    if request.param == "as on CUDA":
        monkeypatch.setattr(separable, "fast_in_phases", separable.has_whole_phases)
        for module in (fan, separable):
            monkeypatch.setattr(module, "fast_form", matrices)
        monkeypatch.setattr(separable, "depthwise", lambda *given: over_phases(*given))


def matrices(weights: Sequence[Tensor], edges: int) -> Sequence[Tensor]:
    return as_matrices(weights, edges) if weights else []


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize(
    ("channels", "layers", "nodes", "size"),
    [
        (4, 4, 4, (8, 8)),
        (2, 3, 3, (7, 9)),
        (6, 3, 1, (9, 6)),
        (2, 2, 2, (15, 16)),
        (2, 1, 5, (5, 4)),
    ],
)
def test_equal_in_float64_for_any_shape(
    channels: int, layers: int, nodes: int, size: tuple[int, int]
) -> None:
    torch.manual_seed(channels)
    plain, fused = pair(channels, layers, nodes, PRIMITIVES)
    assert_same(plain, fused, torch.randn(4, 1, *size, dtype=torch.float64), nodes)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("name", [*PRIMITIVES, *EXTRA_PRIMITIVES])
def test_equal_for_each_primitive_alone(name: str) -> None:
    torch.manual_seed(1)
    plain, fused = pair(2, 3, 2, (name,), in_channels=3)
    assert_same(plain, fused, torch.randn(3, 3, 8, 8, dtype=torch.float64), 2)


def test_an_operation_added_to_the_table_is_computed_edge_by_edge(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def conv(channels: int, stride: int, affine: bool) -> nn.Module:
        return nn.Sequential(nn.Conv2d(channels, channels, 3, stride, 1), nn.Tanh())

    monkeypatch.setitem(operations.OPERATIONS, "tanh_conv", conv)
    assert "tanh_conv" not in JOINED
    torch.manual_seed(2)
    plain, fused = pair(2, 3, 3, ("tanh_conv", "skip_connect", "none", "sep_conv_5x5"))
    assert_same(plain, fused, torch.randn(3, 1, 8, 8, dtype=torch.float64), 3)


def test_second_order_alpha_gradients_are_equal() -> None:
    torch.manual_seed(3)
    plain, fused = pair(2, 3, 3, PRIMITIVES)
    alphas = random_alphas(3, PRIMITIVES)
    images, labels = torch.randn(2, 6, 1, 8, 8, dtype=torch.float64), torch.arange(6) % 5

    def loss_of(net: Supernet, batch: int) -> Loss:
        return lambda weights, alphas: nn.functional.cross_entropy(
            functional_call(net, dict(weights), (images[batch], alphas)), labels
        )

    totals = []
    plain_buffers = {n: torch.randn_like(p) for n, p in plain.named_parameters()}
    joined = {
        own: torch.cat([plain_buffers[n] for n in names])
        for own, names in fused.plain_names().items()
    }
    for net, buffers in ((plain, plain_buffers), (fused, joined)):
        weights = dict(net.named_parameters())
        found = [
            architecture_gradient(
                loss_of(net, 0),
                loss_of(net, 1),
                weights,
                alphas,
                InnerStep(0.1, 0.9, 3e-2, buffers),
                r,
            ).total
            for r in ("finite_difference", "exact", "unrolled")
        ]
        totals.append(found)
    torch.testing.assert_close(totals[1], totals[0], rtol=1e-7, atol=1e-9)


def test_weights_convert_both_ways_without_a_change() -> None:
    plain, fused = pair(4, 3, 4, PRIMITIVES)
    converted = fused.to_plain()
    assert set(converted) == set(plain.state_dict())
    for name, value in plain.state_dict().items():
        assert torch.equal(converted[name], value), name
    assert sum(p.numel() for p in fused.parameters()) == sum(p.numel() for p in plain.parameters())


def test_the_same_seed_gives_the_same_weights_as_the_plain_supernet() -> None:
    torch.manual_seed(5)
    plain = Supernet(4, 3)
    after_plain = torch.rand(1)
    torch.manual_seed(5)
    fused = FusedSupernet(4, 3)
    assert torch.equal(torch.rand(1), after_plain)
    for name, value in fused.to_plain().items():
        assert torch.equal(value, plain.state_dict()[name]), name


def test_a_wrong_column_would_be_seen() -> None:
    """The comparison itself can fail: swap two columns of alpha and it does."""
    torch.manual_seed(6)
    plain, fused = pair(2, 3, 2, ("sep_conv_3x3", "dil_conv_3x3"))
    alphas = random_alphas(2, plain.primitives)
    images = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    swapped = {kind: value.flip(1) for kind, value in alphas.items()}
    assert (plain(images, alphas) - fused(images, swapped)).abs().max() > 1e-3


def test_fewer_tensors_are_kept_for_the_backward_pass() -> None:
    from darts_lib.cost.complexity import saved_bytes

    images, alphas = torch.randn(8, 3, 16, 16), initial_alphas()
    plain, fused = Supernet(8, 4), FusedSupernet(8, 4)
    kept = [saved_bytes(lambda n=n: n(images, alphas).sum()) for n in (plain, fused)]  # type: ignore[misc]
    assert kept[1] < 0.7 * kept[0]
