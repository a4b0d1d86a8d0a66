"""Two independent routes: the original's steps and ours move weights and alphas to one place."""

import pytest
import torch

from darts_lib.data.images import Batch
from darts_lib.plain import OriginalSteps
from darts_lib.tools.benchmark import Size

CPU = torch.device("cpu")


def batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(6, 3, 8, 8, generator=generator), torch.arange(6)


@pytest.mark.parametrize("order", [1, 2])
def test_steps_as_the_original_takes_them_end_where_ours_do(order: int) -> None:
    """Three, so that both optimisers' states count; settings large enough to be seen."""
    torch.set_default_dtype(torch.float64)
    given = {"learning_rate": 0.1, "momentum": 0.7, "weight_decay": 0.02, "gradient_clip": 0.3}
    given |= {"alpha_learning_rate": 0.03, "alpha_weight_decay": 0.1, "order": order, "nodes": 2}
    ours = Size(2, 3, 8, 6).start(CPU, **given)
    torch.manual_seed(0)
    original = OriginalSteps(ours.config, CPU)
    ours.net.load_plain(original.net.state_dict())
    norms = []
    for number in range(3):
        train, valid = batch(2 * number), batch(2 * number + 1)
        (original.first_order if order == 1 else original.second_order)(train, valid)
        ours.step(train, valid)
        norms.append(torch.nn.utils.get_total_norm(w.grad for w in original.net.parameters()))
    torch.testing.assert_close(norms, [torch.tensor(0.3)] * 3, rtol=1e-4, atol=0)  # it was clipped
    for kind, alphas in original.alphas.items():
        torch.testing.assert_close(ours.alphas[kind], alphas, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(
        ours.net.to_plain(), dict(original.net.state_dict()), rtol=1e-6, atol=1e-9
    )
