"""Each operation: shapes at every size, exact counts, and what it computes."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from darts_lib.cost.complexity import count_parameters
from darts_lib.operations import (
    OPERATIONS,
    FactorizedReduce,
    ReLUConvBN,
    Zero,
    build_candidate,
    build_operation,
    every_second_pixel,
)
from darts_lib.relaxation import MixedOp
from darts_lib.search_space import PRIMITIVES

SIZES = [(8, 8), (7, 7), (7, 8), (15, 16), (1, 1), (5, 2)]


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("size", SIZES)
def test_shapes_at_even_odd_and_rectangular_sizes(name: str, size: tuple[int, int]) -> None:
    x = torch.randn(3, 4, *size)
    assert build_candidate(name, 4, 1)(x).shape == x.shape
    halved = (3, 4, (size[0] + 1) // 2, (size[1] + 1) // 2)
    assert build_candidate(name, 4, 2)(x).shape == halved


def test_a_mixed_operation_has_the_sum_of_its_parts() -> None:
    assert count_parameters(MixedOp(16, 1, PRIMITIVES)) == 102 * 16 + 6 * 16**2 == 3168
    assert count_parameters(MixedOp(16, 2, PRIMITIVES)) == 102 * 16 + 7 * 16**2 == 3424


def test_search_candidates_have_neither_gain_nor_running_statistics() -> None:
    for name in PRIMITIVES:
        for stride in (1, 2):
            candidate = build_candidate(name, 4, stride)
            norms = [m for m in candidate.modules() if isinstance(m, nn.BatchNorm2d)]
            assert all(not norm.affine and norm.running_mean is None for norm in norms)
            assert not list(candidate.buffers())
            has_pool = "pool" in name
            assert bool(norms) or name in ("none", "skip_connect")
            assert not has_pool or isinstance(candidate[-1], nn.BatchNorm2d)  # type: ignore[index]


def test_trained_operations_normalise_but_pools_do_not() -> None:
    norms = [
        m
        for m in build_operation("sep_conv_3x3", 4, 1, True).modules()
        if isinstance(m, nn.BatchNorm2d)
    ]
    assert len(norms) == 2
    assert all(norm.affine and norm.track_running_stats for norm in norms)
    assert isinstance(build_operation("max_pool_3x3", 4, 1, True), nn.MaxPool2d)


def test_zero_subsamples_and_the_average_leaves_the_padding_out() -> None:
    x = torch.randn(2, 3, 5, 5)
    assert torch.equal(Zero(2)(x), torch.zeros(2, 3, 3, 3))
    ones = torch.ones(1, 1, 4, 4)
    pool = build_operation("avg_pool_3x3", 1, 1, True)
    assert torch.equal(pool(ones), ones)


def test_factorized_reduce_on_even_sizes_is_the_published_form() -> None:
    torch.manual_seed(0)
    module = FactorizedReduce(6, 8, affine=False).double()
    x = torch.randn(2, 6, 8, 10, dtype=torch.float64)
    relu = x.clamp(min=0)
    halves = [
        F.conv2d(relu, module.conv_1.weight, stride=2),
        F.conv2d(relu[:, :, 1:, 1:], module.conv_2.weight, stride=2),
    ]
    published = torch.cat(halves, dim=1)
    mean, var = (
        published.mean((0, 2, 3), keepdim=True),
        published.var((0, 2, 3), unbiased=False, keepdim=True),
    )
    torch.testing.assert_close(module(x), (published - mean) / (var + 1e-5).sqrt())


def test_the_odd_pixels_end_in_a_line_of_zeros_only_on_odd_sizes() -> None:
    x = torch.arange(1.0, 16.0).reshape(1, 1, 3, 5)
    even, odd = every_second_pixel(x)
    assert even[0, 0].tolist() == [[1, 3, 5], [11, 13, 15]]
    assert odd[0, 0].tolist() == [[7, 9, 0], [0, 0, 0]]
    even, odd = every_second_pixel(x[:, :, :2, :4])
    assert even[0, 0].tolist() == [[1, 3]]
    assert odd[0, 0].tolist() == [[7, 9]]


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_1x1_convolution_has_a_stride(name: str) -> None:
    """Such a one overwrites memory on some processors (oneDNN issue 6035)."""
    for module in build_operation(name, 4, 2, True).modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
            assert module.stride == (1, 1)


def test_nothing_works_in_place() -> None:
    for name in OPERATIONS:
        for stride in (1, 2):
            x = torch.randn(2, 4, 6, 6)
            before = x.clone()
            build_candidate(name, 4, stride)(x)
            assert torch.equal(x, before), name


def test_preprocess_changes_channels_only() -> None:
    assert ReLUConvBN(6, 4, affine=False)(torch.randn(2, 6, 5, 7)).shape == (2, 4, 5, 7)


def test_errors_name_the_value_and_the_way_out() -> None:
    with pytest.raises(
        ValueError, match="unknown primitive 'sep_conv_3'; did you mean sep_conv_3x3"
    ):
        build_operation("sep_conv_3", 4, 1, True)
    with pytest.raises(ValueError, match="channels must be even"):
        FactorizedReduce(4, 3, affine=True)
