"""Checks of chapter 01: parameters, alpha's rows, counting cells, and a primitive of your own."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from darts_lib.cost.complexity import count_parameters
from darts_lib.operations import Build, build_operation
from darts_lib.search_space import count_cells, row_offset


def separable_parameters(attempt: Callable[[int, int], int]) -> None:
    """Check `attempt(kernel, channels)`: the parameters of one `sep_conv` in a search cell."""
    for kernel, channels in ((3, 16), (5, 16), (7, 8)):
        module = build_operation(f"sep_conv_{kernel}x{kernel}", channels, 1, affine=False)
        found, right = _count(attempt, kernel, channels), count_parameters(module)
        hints = {
            right // 2: "that is one depthwise-separable block; sep_conv stacks two",
            right + 4 * channels: "in a search cell the normalisation has no parameters",
            kernel**2 * channels**2: "that is an ordinary convolution, every channel with every",
            2 * kernel**2 * channels**2: "a depthwise kernel reads one channel, not all of them",
            2 * kernel**2 * channels: "the two pointwise convolutions are missing",
        }
        hint = hints.get(found, "add up depthwise and pointwise weights, then double")
        assert found == right, (
            f"kernel {kernel}, {channels} channels: {found}, but the library has {right}; {hint}."
        )


def first_row(attempt: Callable[[int], int]) -> None:
    """Check `attempt(target)`: alpha's first row for the edges into state `target`."""
    for target in range(2, 9):
        row, right = _count(attempt, target), row_offset(target)
        hints = {
            sum(range(target)): "the inputs, states 0 and 1, have no edges into them",
            row_offset(target + 1): "that is where the next state starts; count earlier edges only",
            row_offset(target + 2): "the argument is a state: the first node is state 2, not 0",
        }
        hint = hints.get(row, "count the edges into all earlier nodes: 2, then 3, then 4")
        assert row == right, f"state {target}: row {row}, but its first edge is {right}; {hint}."


def cells(attempt: Callable[[int, int], int]) -> None:
    """Check `attempt(nodes, operations)`: the number of discrete cells."""
    for nodes, operations in ((1, 7), (2, 7), (3, 2), (4, 7)):
        found, right = _count(attempt, nodes, operations), count_cells(nodes, operations)
        hints = {
            right * 2**nodes: "a pair of sources has no order: {0, 1} and {1, 0} are one choice",
            count_cells(nodes, 1) * operations**nodes: "both of a node's edges have an operation",
            count_cells(nodes, 1): "the operations are missing: each kept edge has one",
            count_cells(nodes, 7): "7 is written into it; use the argument operations",
            operations ** sum(range(2, nodes + 2)): "a node keeps only two of its edges",
        }
        hint = hints.get(found, "multiply over the nodes: pairs of sources times operations²")
        assert found == right, (
            f"{nodes} nodes, {operations} operations: {found}, but it is {right}; {hint}."
        )


def own_primitive(attempt: Build) -> None:
    """Check `attempt(channels, stride, affine)`: a module that can stand on an edge."""
    torch.manual_seed(0)
    for stride, affine in ((1, False), (1, True), (2, False), (2, True)):
        module = _call(attempt, 4, stride, affine)
        assert isinstance(module, nn.Module), (
            f"it returned {type(module).__name__}; return an nn.Module, which has parameters."
        )
        for height, width in ((8, 8), (7, 9)):
            _check_picture(module, stride, height, width)
        for norm in [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]:
            assert norm.affine == affine, (
                f"affine={affine} was asked for, but a BatchNorm2d has affine={norm.affine}; pass "
                "it on, for example with batch_norm(channels, affine)."
            )
            assert norm.track_running_stats == affine, (
                "in a search a normalisation keeps no running statistics, retrained it does; "
                "batch_norm(channels, affine) does both."
            )


def _check_picture(module: nn.Module, stride: int, height: int, width: int) -> None:
    x = torch.randn(2, 4, height, width, requires_grad=True)
    before = x.detach().clone()
    out: Tensor = _call(module, x)
    expected = (2, 4, -(-height // stride), -(-width // stride))
    assert tuple(out.shape) == expected, (
        f"stride {stride} on {height}x{width}: shape {tuple(out.shape)}, but {expected} is needed; "
        "look at padding, at stride, and at odd sizes."
    )
    assert torch.equal(x, before), (
        "it changed its input in place, which other edges read too; use inplace=False."
    )
    # Weighted at random: after a normalisation the plain sum, and that of squares, are constant.
    if out.requires_grad:
        torch.autograd.backward((out * torch.randn_like(out)).sum(), inputs=[x])
    reached = x.grad is not None and bool(x.grad.any())
    assert reached, (
        "no gradient passes through it to its input; do not detach and do not use no_grad."
    )


def _count(attempt: Callable[..., int], *arguments: int) -> int:
    found = _call(attempt, *arguments)
    assert isinstance(found, int), f"it returned {found!r}; return a whole number."
    return found


def _call(attempt: Callable[..., Any], *arguments: object) -> Any:
    """Call an attempt; whatever goes wrong in it becomes a hint."""
    assert callable(attempt), f"{attempt!r} is a value; the answer is a function, not its result."
    try:
        return attempt(*arguments)
    except Exception as error:
        shown = ", ".join(
            f"a tensor {tuple(x.shape)}" if isinstance(x, Tensor) else repr(x) for x in arguments
        )
        told = f"called with ({shown}) it raised {type(error).__name__}: {error}"
        raise AssertionError(told) from error
