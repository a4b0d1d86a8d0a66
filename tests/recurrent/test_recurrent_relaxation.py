"""The relaxed recurrent cell: plain and fused are one function; masks, shares and statistics."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from darts_lib.cost.step_cost import trace
from darts_lib.recurrent import fused
from darts_lib.recurrent.fused import FusedSearchCell
from darts_lib.recurrent.relaxation import Alphas, SearchCell, initial_alphas
from darts_lib.recurrent.search_space import PRIMITIVES, edges

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


def alphas_of(nodes: int = 8) -> Alphas:
    return {"recurrent": torch.randn(len(edges(nodes)), len(PRIMITIVES), requires_grad=True)}


def batch(masks: bool = True) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    drawn = [(torch.rand(BATCH, WIDTH) < 0.75) / 0.75 for _ in range(2)]
    mask = [m.to(torch.float64) if masks else None for m in drawn]
    return torch.randn(TIME, BATCH, WIDTH), torch.randn(BATCH, WIDTH), mask[0], mask[1]


def results(cell: SearchCell, alphas: Alphas, data: Sequence[Tensor | None]) -> list[Tensor]:
    """Return outputs, last state, and the gradients by weights, alphas, inputs and first state."""
    inputs, hidden, *masks = data
    assert inputs is not None
    assert hidden is not None
    inputs, hidden = inputs.clone().requires_grad_(), hidden.clone().requires_grad_()
    outputs, last = cell(inputs, hidden, alphas, *masks)
    along = torch.linspace(-1, 1, outputs.numel()).reshape(outputs.shape)
    wanted = [*cell.parameters(), alphas["recurrent"], inputs, hidden]
    found = torch.autograd.grad((outputs * along).sum() + last.square().sum(), wanted)
    return [outputs.detach(), last.detach(), *found]


@pytest.mark.parametrize("nodes", [1, 2, 8, 11])
@pytest.mark.parametrize("masks", [True, False])
def test_fused_is_the_plain_cell_in_value_and_all_gradients(nodes: int, masks: bool) -> None:
    plain, fast = pair_of_cells(nodes)
    alphas, data = alphas_of(nodes), batch(masks)
    for a, b in zip(results(plain, alphas, data), results(fast, alphas, data), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-10, atol=1e-12)


def test_the_written_gradient_of_a_mix_is_torchs() -> None:
    state, share = torch.randn(BATCH, WIDTH), torch.rand(5, 3, 1)
    inputs = [state, torch.randn(BATCH, 2, 3, WIDTH), share]
    inputs = [value.requires_grad_() for value in inputs]
    along = torch.randn(BATCH, 3, WIDTH)
    found, right = fused.Mix.apply(*inputs), fused.mix(*inputs)
    torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-12)
    by_hand, by_torch = (torch.autograd.grad(out, inputs, along) for out in (found, right))
    torch.testing.assert_close(by_hand, by_torch, rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradgradcheck(fused.Mix.apply, inputs)


def test_the_gradient_of_a_gradient_is_the_plain_cells() -> None:
    """A Hessian-vector product over weights, then by the alphas: what second order takes."""
    cells, alphas, (inputs, hidden, *masks) = pair_of_cells(3), alphas_of(3), batch()
    found = []
    for cell in cells:
        weights = list(cell.parameters())
        outputs, last = cell(inputs, hidden, alphas, *masks)
        along = torch.linspace(-1, 1, outputs.numel()).reshape(outputs.shape)
        loss = (outputs * along).sum() + last.square().sum()
        first = torch.autograd.grad(loss, weights, create_graph=True)
        product = sum((g * (1 + torch.arange(g.numel()).view_as(g)).cos()).sum() for g in first)
        assert isinstance(product, Tensor)
        found.append(torch.autograd.grad(product, [alphas["recurrent"], *weights]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-11)


def test_the_comparison_sees_a_share_that_none_does_not_keep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def normalised(cell: FusedSearchCell, alphas: Alphas) -> list[Tensor]:
        return [share / share[-1:] for share in right(cell, alphas)]

    right = FusedSearchCell._shares
    monkeypatch.setattr(FusedSearchCell, "_shares", normalised)
    plain, fast = pair_of_cells()
    alphas, data = alphas_of(), batch()
    a, b = results(plain, alphas, data), results(fast, alphas, data)
    assert not torch.allclose(a[0], b[0], rtol=1e-3)


def test_the_plain_cell_against_scalar_arithmetic() -> None:
    """One step, two nodes, number by number from the formula; the normalisation by hand."""
    cell, _ = pair_of_cells(2)
    alphas, (inputs, hidden, mx, mh) = alphas_of(2), batch()
    assert mx is not None
    assert mh is not None
    found, _ = cell(inputs[:1], hidden, alphas, mx, mh)
    p = torch.softmax(alphas["recurrent"], dim=1).detach()

    def normalise(state: Tensor) -> Tensor:
        centred = state - state.mean(dim=0)
        return centred / (centred.square().mean(dim=0) + 1e-5).sqrt()

    def gated(state: Tensor, matrix: Tensor, row: Tensor) -> Tensor:
        total = torch.zeros_like(state)
        for b in range(BATCH):
            for k in range(WIDTH):
                c = float((state[b] * mh[b]) @ matrix[:, k])
                h = (state[b] * mh[b]) @ matrix[:, WIDTH + k]
                gate = 1 / (1 + torch.exp(torch.tensor(-c)))
                for name, weight in zip(PRIMITIVES, row, strict=True):
                    if name != "none":
                        value = {"identity": h, "relu": h.clamp(min=0)}.get(name)
                        value = getattr(torch, name)(h) if value is None else value
                        s = state[b, k]
                        total[b, k] += weight * (s + gate * (value - s))
        return total

    with torch.no_grad():
        joined = torch.cat([inputs[0] * mx, hidden * mh], dim=1) @ cell._W0
        gate, candidate = torch.sigmoid(joined[:, :WIDTH]), torch.tanh(joined[:, WIDTH:])
        s0 = normalise(hidden + gate * (candidate - hidden))
        s1 = normalise(gated(s0, cell._Ws[0], p[0]))
        s2 = normalise(gated(s0, cell._Ws[1], p[1]) + gated(s1, cell._Ws[1], p[2]))
    torch.testing.assert_close(found[0].detach(), (s1 + s2) / 2)


@pytest.mark.parametrize("cell_type", [SearchCell, FusedSearchCell])
def test_gradients_against_central_differences(cell_type: type[SearchCell]) -> None:
    cell = cell_type(WIDTH, 2)
    cell.load_state_dict(pair_of_cells(2)[0].state_dict())
    alphas, (inputs, hidden, mx, mh) = alphas_of(2), batch()

    def out(logits: Tensor, first: Tensor) -> Tensor:
        result: Tensor = cell(inputs, first, {"recurrent": logits}, mx, mh)[0]
        return result

    assert torch.autograd.gradcheck(out, (alphas["recurrent"], hidden.requires_grad_()))


def test_the_mask_acts_on_the_products_and_never_on_the_highway() -> None:
    cell, _ = pair_of_cells(1)
    with torch.no_grad():
        for weight in cell.parameters():
            weight.zero_()  # every gate is 1/2 and every candidate 0
    inputs, hidden, _, _ = batch()
    nothing = torch.zeros(BATCH, WIDTH)
    state = cell.first_state(inputs[0], hidden, nothing)
    torch.testing.assert_close(state, hidden / 2)


def test_none_alone_silences_a_node() -> None:
    for cell in pair_of_cells(1):
        only_none = {"recurrent": torch.tensor([[0.0, *[-torch.inf] * 4]])}
        outputs, _ = cell(*batch()[:2], only_none)
        assert torch.equal(outputs, torch.zeros_like(outputs))


def test_no_running_statistics_and_the_originals_names() -> None:
    names = list(SearchCell(WIDTH).state_dict())
    assert names == ["_W0", *(f"_Ws.{i}" for i in range(8))]
    assert sum(w.numel() for w in SearchCell(300).parameters()) == 600**2 + 8 * 300 * 600


def test_a_batch_of_one_and_alphas_of_another_size_are_refused() -> None:
    for cell in pair_of_cells():
        inputs, hidden, *_ = batch()
        with pytest.raises(ValueError, match="a batch of at least 2"):
            cell(inputs[:, :1], hidden[:1], alphas_of())
        with pytest.raises(ValueError, match=r"shape \(36, 5\).*initial_alphas\(nodes=8\)"):
            cell(inputs, hidden, alphas_of(2))
        with pytest.raises(ValueError, match="not nothing"):
            cell(inputs, hidden, {})


def test_initial_alphas_are_small_leaves_of_their_seed() -> None:
    alphas = initial_alphas(seed=3)["recurrent"]
    assert tuple(alphas.shape) == (36, 5)
    assert alphas.is_leaf
    assert alphas.requires_grad
    assert 0.5e-3 < float(alphas.detach().std()) < 1.5e-3
    assert torch.equal(alphas, initial_alphas(seed=3)["recurrent"])
    assert not torch.equal(alphas, initial_alphas(seed=4)["recurrent"])


def test_the_fused_cell_sends_far_fewer_operations_to_the_device() -> None:
    def step(cell: SearchCell) -> None:
        inputs, hidden = torch.randn(TIME, BATCH, WIDTH), torch.randn(BATCH, WIDTH)
        alphas = {"recurrent": torch.zeros(36, 5, requires_grad=True)}
        outputs, _ = cell(inputs, hidden, alphas)
        torch.autograd.grad(outputs.sum(), [*cell.parameters(), alphas["recurrent"]])

    plain, fast = (trace(cell, step).operations for cell in pair_of_cells())
    assert fast < 0.7 * plain, (plain, fast)
