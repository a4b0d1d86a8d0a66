"""What a network costs: parameters, multiply-adds, memory held for the backward pass, seconds.

Multiply-adds count convolutions and linear layers, one for each multiplication with a weight;
normalisation, ReLU, pooling and sums are left out. Other counters use other rules.
"""

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(module: nn.Module, without: str = "") -> int:
    """Count parameters; those whose name starts with `without` (an auxiliary head) left out."""
    return sum(
        parameter.numel()
        for name, parameter in module.named_parameters()
        if not (without and name.startswith(without))
    )


def multiply_adds(module: nn.Module, image: Sequence[int], *arguments: object) -> int:
    """Count the multiply-adds of one forward pass in evaluation mode.

    `image` is the shape (channels, height, width) of one input; further arguments of the module's
    forward follow. torch's counter gives floating-point operations, two a multiply-add.
    """
    training = {part: part.training for part in module.modules()}
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    try:
        module.eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(torch.zeros(1, *image, device=device), *arguments)
    finally:
        for part, mode in training.items():
            part.training = mode
    return int(counter.get_total_flops()) // 2


def saved_bytes(loss: Callable[[], Tensor]) -> int:
    """Return the bytes that autograd keeps for the backward pass of `loss()`, weights included.

    Storages are counted once, however many operations keep them.
    """
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss()
    return sum(storage.nbytes() for storage in storages.values())


def seconds_per_pass(loss: Callable[[], Tensor], inputs: Sequence[Tensor]) -> float:
    """Time one forward and backward pass after one warm-up; nothing is changed by it."""
    torch.autograd.grad(loss(), inputs, allow_unused=True)
    _synchronise(inputs[0].device)
    start = time.perf_counter()
    torch.autograd.grad(loss(), inputs, allow_unused=True)
    _synchronise(inputs[0].device)
    return time.perf_counter() - start


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
