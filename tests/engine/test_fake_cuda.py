"""Steps on fake CUDA tensors, which have a device and no content: nothing is left on the CPU.

No GPU is needed. A backward pass cannot run on them without one, so gradients are stood in for:
what is checked are the forward passes, the optimisers' arithmetic, and the making of batches.
"""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from darts_lib.data.images import ImageSet, augmented_batch, clean_batch
from darts_lib.retrain import RetrainConfig, Retraining
from darts_lib.search import Search, SearchConfig

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
TINY = {"scale": "laptop", "channels": 4, "layers": 3, "max_images": 200}
FUSED = ("_fused_sgd_", "_fused_adam_")
"""The optimisers' kernels, which have no fake form."""


class OntoCuda(TorchFunctionMode):
    """While it is on, what copies a tensor makes a fake one on CUDA."""

    def __init__(self, fake: FakeTensorMode) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.fake = fake

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        if func is torch._C.TensorBase.clone:  # a parameter's copy
            return self._twin(args[0])
        if func is Tensor.__deepcopy__:
            tensor, memo = args
            if id(tensor) not in memo:
                memo[id(tensor)] = self._twin(tensor).requires_grad_(tensor.requires_grad)
            return memo[id(tensor)]
        return func(*args, **(kwargs or {}))

    def _twin(self, like: Tensor) -> Tensor:
        with self.fake:
            return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=CUDA)


class WithoutFused(TorchDispatchMode):
    """Leaves out the kernels of the fused optimisers."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name.removeprefix("aten::") in FUSED:
            return None
        return func(*args, **(kwargs or {}))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTensorMode:
    """Return a mode for fake tensors, with stand-ins for gradients and no recording."""

    def grad(_: object, inputs: Sequence[Tensor], *__: object, **___: object) -> list[Tensor]:
        return [torch.empty_like(tensor) for tensor in inputs]

    monkeypatch.setattr(torch.autograd, "grad", grad)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return FakeTensorMode()


def on_cuda(run: Any, fake: FakeTensorMode) -> Any:
    with OntoCuda(fake):
        twin = copy.deepcopy(run)
    twin.device, twin.fast = CUDA, dataclasses.replace(run.fast, device=CUDA)
    return twin


def batch() -> tuple[Tensor, Tensor]:
    images = torch.empty(8, 1, 8, 8, device=CUDA).to(memory_format=torch.channels_last)
    return images, torch.empty(8, dtype=torch.int64, device=CUDA)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("given", [{}, {"recompute": True}, {"madds_weight": 0.1}], ids=str)
def test_a_step_of_a_search(order: int, given: dict[str, Any], fake: FakeTensorMode) -> None:
    config = SearchConfig.create(**TINY, order=order, **given)
    run = on_cuda(Search(config), fake)
    with fake, WithoutFused():  # type: ignore[no-untyped-call]
        found = run.step(batch(), batch())
    assert found.device == CUDA
    assert {tensor.device for tensor in run.changed() if tensor.dim()} == {CUDA}


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_step_of_a_retraining(
    accumulate: int, fake: FakeTensorMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RetrainConfig.create(**TINY, genotype="DARTS_V2", accumulate=accumulate)
    run = on_cuda(Retraining(config), fake)

    def backward(_: Tensor) -> None:
        for weight in run.net.parameters():
            weight.grad = torch.empty_like(weight)

    monkeypatch.setattr(torch.autograd, "backward", backward)
    with fake, WithoutFused():  # type: ignore[no-untyped-call]
        assert run.step(batch()).device == CUDA


def test_batches(fake: FakeTensorMode) -> None:
    with fake:
        images = torch.empty(20, 3, 8, 8, dtype=torch.uint8, device=CUDA)
        labels = torch.empty(20, dtype=torch.int64, device=CUDA)
        own = ImageSet("own", images, labels, ("a", "b"), (0.5,) * 3, (0.2,) * 3, 1, flip=True)
        for found in (
            augmented_batch(own, torch.arange(9), 4, torch.Generator()),
            clean_batch(own, torch.arange(9)),
        ):
            assert {tensor.device for tensor in found} == {CUDA}


def test_what_stays_on_the_cpu_is_found(fake: FakeTensorMode) -> None:
    run = on_cuda(Search(SearchConfig.create(**TINY, order=1)), fake)
    with fake, WithoutFused():  # type: ignore[no-untyped-call]
        images, labels = batch()
        with pytest.raises(RuntimeError, match="device"):
            run.step((images, labels.to(CPU)), batch())
