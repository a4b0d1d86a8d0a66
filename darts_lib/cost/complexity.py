"""What a network costs: parameters, operations, memory held for the backward pass, seconds.

Multiply-adds count convolutions and linear layers, one for each multiplication with a weight;
normalisation, ReLU, pooling and sums are left out. Floating-point operations are twice that.
Published FLOPs often follow a third rule, `published_flops`: compare like with like.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

from darts_lib.engine.devices import step_memory, wait


def count_parameters(module: nn.Module, without: str = "") -> int:
    """Count parameters; those whose name starts with `without` (an auxiliary head) left out."""
    return sum(
        parameter.numel()
        for name, parameter in module.named_parameters()
        if not (without and name.startswith(without))
    )


def multiply_adds(module: nn.Module, image: Sequence[int], *arguments: object) -> int:
    """Count the multiply-adds of one forward pass in evaluation mode; modes are put back.

    `image` is the shape (channels, height, width) of one input; further arguments of the module's
    forward follow. torch's counter gives floating-point operations, two a multiply-add.
    """
    training = {part: part.training for part in module.modules()}
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    # torch's counter fails on a slice, taken without gradients, of what asks for one.
    given = tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, list(arguments))
    counter = FlopCounterMode(display=False)
    try:
        module.eval()
        with torch.no_grad(), counter:
            module(torch.zeros(1, *image, device=device), *given)
    finally:
        for part, mode in training.items():
            part.training = mode
    return int(counter.get_total_flops()) // 2


def published_flops(module: nn.Module, image: Sequence[int], *arguments: object) -> int:
    """Count one forward pass by the rule behind the FLOPs on MMRazor's page.

    A multiply-add counts once. A ReLU adds one for each value, a pool one for each value that it
    reads, a normalisation one for each value, or two with a gain; a mean counts as the global pool.
    Sums are free, and so are biases, which no convolution here has. Arguments as for
    `multiply_adds`. Source: the counter of MMCV, `get_model_complexity_info`.
    """
    values = _ValueCounter()
    with values:
        counted = multiply_adds(module, image, *arguments)
    return counted + values.total


class _ValueCounter(TorchDispatchMode):
    """Counts what that rule adds, at torch's dispatcher: a module and a function look alike."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if "batch_norm" in name:  # each device has a form of its own; the gain stands second
            self.total += args[0].numel() * (1 if args[1] is None else 2)
        elif "pool" in name or name in ("relu", "relu_", "mean"):
            self.total += args[0].numel()
        return func(*args, **(kwargs or {}))


def saved_bytes(loss: Callable[[], Tensor]) -> int:
    """Return the bytes, weights included, that autograd keeps for `loss()`, each storage once."""
    with step_memory(torch.device("cpu"), ()) as memory:  # counted, on whatever device they are
        _kept = loss()
    return memory.peak


def seconds_per_pass(loss: Callable[[], Tensor], inputs: Sequence[Tensor]) -> float:
    """Time one forward and backward pass after one warm-up; nothing is changed by it."""

    def step() -> object:
        return torch.autograd.grad(loss(), inputs, allow_unused=True)

    seconds(step, inputs[0].device)
    return seconds(step, inputs[0].device)


def seconds(step: Callable[[], object], device: torch.device) -> float:
    """Time one step, to the end of what it has sent to the device."""
    started = time.perf_counter()
    step()
    wait(device)
    return time.perf_counter() - started
