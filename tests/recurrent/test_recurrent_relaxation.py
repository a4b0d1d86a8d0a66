"""The relaxed recurrent cell: plain and fused are one function; masks, shares and statistics."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from darts_lib.recurrent.fused import FusedSearchCell
from darts_lib.recurrent.relaxation import SearchCell
from darts_lib.recurrent.search_space import PRIMITIVES
from darts_lib.relaxation import mix
from darts_lib.search_space import edges

WIDTH, BATCH, TIME = 6, 5, 4


@pytest.fixture(autouse=True)
def double() -> None:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)


def pair_of_cells(nodes: int = 8) -> tuple[SearchCell, FusedSearchCell]:
    plain, fast = SearchCell(WIDTH, nodes), FusedSearchCell(WIDTH, nodes)
    with torch.no_grad():
        for weight in plain.parameters():
            weight.copy_(0.5 * torch.randn_like(weight))
    fast.load_state_dict(plain.state_dict())
    return plain, fast


def rows_of(nodes: int = 8) -> Tensor:
    return torch.randn(len(edges(nodes, 1)), len(PRIMITIVES), requires_grad=True)


def mixed(rows: Tensor) -> dict[str, Tensor]:
    return mix({"recurrent": rows})


def batch(masks: bool = True) -> tuple[Tensor, ...]:
    drawn = [(torch.rand(BATCH, WIDTH) < 0.75) / 0.75 for _ in range(2)]
    mask: list[Any] = [m.to(torch.float64) if masks else None for m in drawn]
    return torch.randn(TIME, BATCH, WIDTH), torch.randn(BATCH, WIDTH), *mask


def results(cell: SearchCell, rows: Tensor, data: Sequence[Tensor]) -> list[Tensor]:
    """Return outputs, last state, all gradients, and those of a sum over the weights' gradients."""
    inputs, hidden = (value.clone().requires_grad_() for value in data[:2])
    outputs, last = cell(inputs, hidden, mixed(rows), *data[2:])
    along = torch.linspace(-1, 1, outputs.numel()).reshape(outputs.shape)
    wanted = [rows, *cell.parameters(), inputs, hidden]
    loss = (outputs * along).sum() + last.square().sum()
    slopes = torch.autograd.grad(loss, wanted, create_graph=True)
    products = [(g * (1 + torch.arange(g.numel()).view_as(g)).cos()).sum() for g in slopes[1:-2]]
    second = torch.autograd.grad(torch.stack(products).sum(), wanted)  # what second order takes
    return [value.detach() for value in (outputs, last, *slopes, *second)]


@pytest.mark.parametrize("nodes", [1, 2, 8, 11])
@pytest.mark.parametrize("masks", [True, False])
def test_fused_is_the_plain_cell_in_value_and_all_gradients(nodes: int, masks: bool) -> None:
    rows, data = rows_of(nodes), batch(masks)
    plain, fast = (results(cell, rows, data) for cell in pair_of_cells(nodes))
    torch.testing.assert_close(fast, plain, rtol=1e-9, atol=1e-11)


def test_the_plain_cell_by_hand() -> None:
    """One step, two nodes, from the formula."""
    cell, _ = pair_of_cells(2)
    rows, (inputs, hidden, mx, mh) = rows_of(2).detach(), batch()
    p = rows.softmax(1)

    def normalise(state: Tensor) -> Tensor:
        return nn.functional.batch_norm(state, None, None, training=True)

    def gated(state: Tensor, matrix: Tensor, row: Tensor) -> Tensor:
        gate, h = ((state * mh) @ matrix).split(WIDTH, dim=1)
        gate, values = gate.sigmoid(), (h.tanh(), h.relu(), h.sigmoid(), h)
        mixture = zip(row[1:], values, strict=True)  # none has no part
        return sum(w * ((1 - gate) * state + gate * value) for w, value in mixture)

    with torch.no_grad():
        outputs, _ = cell(inputs[:1], hidden, mixed(rows), mx, mh)
        joined = torch.cat([inputs[0] * mx, hidden * mh], dim=1)
        gate, candidate = (joined @ cell._W0).split(WIDTH, dim=1)
        s0 = normalise(hidden + gate.sigmoid() * (candidate.tanh() - hidden))
        s1 = normalise(gated(s0, cell._Ws[0], p[0]))
        s2 = normalise(gated(s0, cell._Ws[1], p[1]) + gated(s1, cell._Ws[1], p[2]))
    torch.testing.assert_close(outputs[0], (s1 + s2) / 2)


def test_a_batch_of_one_and_weights_of_another_size_are_refused() -> None:
    inputs, hidden, *_ = batch()
    for cell in pair_of_cells():
        with pytest.raises(ValueError, match="a batch of at least 2"):
            cell(inputs[:, :1], hidden[:1], mixed(rows_of()))
        with pytest.raises(ValueError, match=r"shape \(36, 5\).*initial_alphas\(nodes=8\)"):
            cell(inputs, hidden, mixed(rows_of(2)))
        with pytest.raises(ValueError, match="not nothing"):
            cell(inputs, hidden, {})


class Operations(TorchDispatchMode):
    """Counts what is sent to the device."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_the_fused_cell_sends_far_fewer_operations_to_the_device() -> None:
    counts, weights = [], mixed(torch.zeros(36, 5))
    for cell in pair_of_cells():
        with Operations() as operations:
            outputs, _ = cell(*batch()[:2], weights)
            torch.autograd.grad(outputs.sum(), list(cell.parameters()))
        counts.append(operations.count)
    assert counts[1] < 0.7 * counts[0]
