"""Nothing is left on the CPU by settings that change a step, nor by the making of batches.

No GPU is needed: tensors on `meta`, and fake ones, have a shape and a device. That a step of every
kind stays on its device is tested in test_kinds.py.
"""

import sys
from typing import Any

import pytest
import torch
from kind_tools import KINDS
from step_tools import Elsewhere
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from darts_lib.data.images import ImageSet, augmented_batch, clean_batch
from darts_lib.engine.settings import RunConfig

CUDA = torch.device("cuda", 0)


@pytest.mark.parametrize(("kind", "given"), [
    ("search", {"recompute": True}),
    ("search", {"madds_weight": 0.1}),
    ("retraining", {"accumulate": 3}),
])  # fmt: skip
def test_settings_of_a_step_make_no_tensor_elsewhere(
    kind: str, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, batches = KINDS[kind].start()
    monkeypatch.setattr(RunConfig, "open_device", lambda _: torch.device("meta"))
    monkeypatch.setattr("darts_lib.engine.run.seed_epoch", lambda *_: None)
    for module in ("torch.optim.sgd", "torch.optim.adam"):  # the fused kernels are not run here
        monkeypatch.setattr(sys.modules[module], "_device_dtype_check_for_fused", lambda _: None)
    batches = pytree.tree_map(lambda tensor: tensor.to("meta"), batches)
    with Elsewhere() as mode:
        run: Any = KINDS[kind].run(KINDS[kind].settings(**given))
        mode.strict = True
        assert run.step(*batches).is_meta
        if given == {"accumulate": 3}:
            return
        (images, labels), valid = batches
        with pytest.raises(AssertionError, match=r"reads tensors on \['cpu', 'meta'\]"):
            run.step((images, torch.zeros(len(labels), dtype=torch.int64)), valid)


def test_batches() -> None:
    with FakeTensorMode():  # type: ignore[no-untyped-call]
        images = torch.empty(20, 3, 8, 8, dtype=torch.uint8, device=CUDA)
        labels = torch.empty(20, dtype=torch.int64, device=CUDA)
        own = ImageSet("own", images, labels, ("a", "b"), (0.5,) * 3, (0.2,) * 3, 1, flip=True)
        augmented = augmented_batch(own, torch.arange(9), 4, torch.Generator())
        places = {tensor.device for tensor in (*augmented, *clean_batch(own, torch.arange(9)))}
    assert places == {CUDA}
