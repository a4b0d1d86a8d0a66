"""Checks of chapter 01: alpha's rows, the separable block, cells with skips, an own primitive."""

from collections.abc import Callable
from math import comb
from typing import Any

import torch
from torch import Tensor, nn

from darts_lib.operations import Build, depthwise_block
from darts_lib.search_space import PRIMITIVES, count_cells, list_cells, row_offset
from darts_lib.teaching.exercises.answers import compare


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


def cells_with_skips(attempt: Callable[[int, int], int]) -> None:
    """Check `attempt(nodes, skips)`: how many cells have exactly so many skip connections."""
    for nodes in (1, 2):
        listed = [str(cell).count("skip_connect") for cell in list_cells(nodes, PRIMITIVES[1:])]
        for skips in range(2 * nodes + 1):
            found, right = _count(attempt, nodes, skips), listed.count(skips)
            ways, sources = comb(2 * nodes, skips), count_cells(nodes, 1)
            hints = {
                sources * 6 ** (2 * nodes - skips): "say which of the kept edges are the skips",
                ways * 6 ** (2 * nodes - skips): "each node also chooses two of its sources",
                sources * ways * 7 ** (2 * nodes - skips): "the other edges are no skips: six are "
                "left, not seven",
                count_cells(nodes): "that is all cells, with any number of skips",
            }
            hint = hints.get(
                found, "sources, times places of the skips, times the other operations"
            )
            assert found == right, (
                f"nodes={nodes}, skips={skips}: {found}, but {right} are listed; {hint}."
            )


def separable_block(attempt: Callable[[int, int, int, int], nn.Module]) -> None:
    """Check `attempt(channels, kernel, stride, dilation)` against `depthwise_block`'s layers."""
    torch.manual_seed(0)
    for kernel, stride, dilation in ((3, 1, 1), (5, 2, 1), (3, 1, 2), (5, 2, 2)):
        module = _call(attempt, 4, kernel, stride, dilation)
        assert isinstance(module, nn.Module), "return an nn.Module, for example an nn.Sequential."
        library = nn.Sequential(*depthwise_block(4, kernel, stride, dilation, affine=False))
        own, theirs = list(module.parameters()), list(library.parameters())
        shapes = [tuple(weight.shape) for weight in own]
        wanted = [tuple(weight.shape) for weight in theirs]
        given = f"kernel={kernel}, stride={stride}, dilation={dilation}"
        assert (4, 4, kernel, kernel) not in shapes, (
            "your first convolution mixes all channels; a depthwise one has groups=channels."
        )
        assert shapes == wanted, (
            f"{given}: your weights have the shapes {shapes}, the library's {wanted}: depthwise, "
            "then pointwise, no biases, and in a search no gain."
        )
        with torch.no_grad():
            for weight, given_weight in zip(own, theirs, strict=True):
                weight.copy_(given_weight)
        x = torch.randn(2, 4, 9, 8)
        found, right = _call(module, x), library(x)
        assert tuple(found.shape) == tuple(right.shape), (
            f"{given}: a map {tuple(x.shape)} becomes {tuple(found.shape)}, not "
            f"{tuple(right.shape)}: pad by dilation * (kernel // 2)."
        )
        mistakes = {
            library[1:](x): "the ReLU in front is missing.",
            library[:3](x): "the normalisation at the end is missing.",
        }
        compare(found, right, mistakes, f"{given}: the order is ReLU, depthwise, pointwise, "
                "normalisation; the stride is the depthwise part's.")  # fmt: skip


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
