"""Each operation: shapes at every size, exact counts, and what it computes."""

import pytest
import torch
from fuzz_tools import Patch
from torch import nn
from torch.nn import functional as F

from darts_lib import operations
from darts_lib.operations import OPERATIONS, FactorizedReduce, build_candidate, build_operation
from darts_lib.relaxation import Supernet
from darts_lib.search_space import PRIMITIVES, CellPlan

SIZES = [(8, 8), (7, 7), (7, 8), (15, 16), (1, 1), (5, 2)]


@pytest.mark.parametrize("name", OPERATIONS)
def test_shapes_at_even_odd_and_rectangular_sizes(name: str) -> None:
    for height, width in SIZES:
        x = torch.randn(3, 4, height, width)
        before = x.clone()
        assert build_candidate(name, 4, 1)(x).shape == x.shape
        halved = (3, 4, (height + 1) // 2, (width + 1) // 2)
        assert build_candidate(name, 4, 2)(x).shape == halved
        assert torch.equal(x, before), "nothing works in place"


def norms_of(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]


@pytest.mark.parametrize("stride", [1, 2])
def test_search_candidates_have_neither_gain_nor_running_statistics(stride: int) -> None:
    for name in PRIMITIVES:
        candidate = build_candidate(name, 4, stride)
        norms = norms_of(candidate)
        assert {(norm.affine, norm.running_mean) for norm in norms} <= {(False, None)}
        assert not list(candidate.buffers())
        assert norms or name in ("none", "skip_connect")
        assert "pool" not in name or isinstance(candidate[-1], nn.BatchNorm2d)  # type: ignore[index]


def test_trained_operations_normalise_but_pools_do_not() -> None:
    norms = norms_of(build_operation("sep_conv_3x3", 4, 1, True))
    assert [(norm.affine, norm.track_running_stats) for norm in norms] == [(True, True)] * 2
    assert isinstance(build_operation("max_pool_3x3", 4, 1, True), nn.MaxPool2d)


def test_zero_subsamples_and_the_average_leaves_the_padding_out() -> None:
    assert torch.equal(operations.Zero(2)(torch.randn(2, 3, 5, 5)), torch.zeros(2, 3, 3, 3))
    ones = torch.ones(1, 1, 4, 4)
    assert torch.equal(build_operation("avg_pool_3x3", 1, 1, True)(ones), ones)


def test_factorized_reduce_on_even_sizes_is_the_published_form() -> None:
    torch.manual_seed(0)
    module = FactorizedReduce(6, 8, affine=False).double()
    x = torch.randn(2, 6, 8, 10, dtype=torch.float64)
    relu = x.clamp(min=0)
    even, odd = module.conv_1.weight, module.conv_2.weight
    halves = F.conv2d(relu, even, stride=2), F.conv2d(relu[:, :, 1:, 1:], odd, stride=2)
    published = F.batch_norm(torch.cat(halves, dim=1), None, None, training=True)
    torch.testing.assert_close(module(x), published)


def test_the_odd_pixels_end_in_a_line_of_zeros_only_on_odd_sizes() -> None:
    x = torch.arange(1.0, 16.0).reshape(1, 1, 3, 5)
    even, odd = operations.every_second_pixel(x)
    assert even[0, 0].tolist() == [[1, 3, 5], [11, 13, 15]]
    assert odd[0, 0].tolist() == [[7, 9, 0], [0, 0, 0]]
    even, odd = operations.every_second_pixel(x[:, :, :2, :4])
    assert (even[0, 0].tolist(), odd[0, 0].tolist()) == ([[1, 3]], [[7, 9]])


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_1x1_convolution_has_a_stride(name: str) -> None:
    """Such a one overwrites memory on some processors (oneDNN issue 6035)."""
    modules = build_operation(name, 4, 2, True).modules()
    small = [m for m in modules if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert all(conv.stride == (1, 1) for conv in small)


def test_preprocess_brings_both_inputs_to_one_shape() -> None:
    for previous_reduces, size in ((False, (5, 7)), (True, (10, 13))):
        plan = CellPlan("normal", 4, 6, 8, previous_reduces)
        first, second = operations.preprocess(plan, affine=False)
        assert first(torch.randn(2, 6, *size)).shape == (2, 4, 5, 7)
        assert second(torch.randn(2, 8, 5, 7)).shape == (2, 4, 5, 7)


def test_errors_name_the_value_and_the_way_out() -> None:
    unknown = "unknown primitive 'sep_conv_3'; did you mean 'sep_conv_3x3'"
    with pytest.raises(ValueError, match=unknown):
        build_operation("sep_conv_3", 4, 1, True)
    with pytest.raises(ValueError, match="channels must be even"):
        FactorizedReduce(4, 3, affine=True)


WRONG = {
    "no stride": lambda channels, stride, affine: nn.Identity(),
    "no padding": lambda channels, stride, affine: nn.Conv2d(channels, channels, 3, stride),
    "rounded down": lambda channels, stride, affine: nn.AvgPool2d(stride),
    "channels": lambda channels, stride, affine: nn.Conv2d(channels, 2 * channels, 1, stride),
}


@pytest.mark.parametrize("fault", WRONG)
def test_an_operation_of_wrong_size_is_named(fault: str, monkeypatch: Patch) -> None:
    monkeypatch.setitem(operations.OPERATIONS, "mine", WRONG[fault])
    words = r"operation 'mine' at stride [12] turns \(2, [48], 7, 6\)"
    with pytest.raises(ValueError, match=words):
        Supernet(4, 3, 2, primitives=("none", "mine"))


def test_looking_at_a_size_draws_nothing() -> None:
    operations._check_shape.cache_clear()
    weights = []
    for _ in range(2):
        torch.manual_seed(3)
        weights.append([*build_operation("sep_conv_3x3", 6, 1, affine=True).parameters()])
    assert all(map(torch.equal, *weights))
