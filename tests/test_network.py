"""Derived networks: normalised pools, the auxiliary head, drop path."""

import pytest
import torch
from torch import Tensor, nn

from darts_lib import network
from darts_lib.derivation import random_genotype
from darts_lib.genotype import PUBLISHED, Genotype
from darts_lib.network import AuxiliaryHead, Cell, Network, drop_path, kept_paths
from darts_lib.search_space import CellPlan


def test_auxiliary_head_is_the_published_one_on_8x8_maps() -> None:
    torch.manual_seed(0)
    head, x = AuxiliaryHead(12, 5).eval(), torch.randn(3, 12, 8, 8)
    published_form = head.classifier(head.features(x).flatten(1))
    assert torch.equal(head(x), published_form)


@pytest.mark.parametrize("size", [24, 32, 48, 64, (30, 33), (8, 8), (7, 9)])
def test_auxiliary_head_at_any_image_size(size: int | tuple[int, int]) -> None:
    height, width = (size, size) if isinstance(size, int) else size
    net = Network(PUBLISHED["DARTS_V2"], 4, 5, 7, 3, auxiliary=True).train()
    logits, auxiliary = net(torch.randn(2, 3, height, width))
    assert logits.shape == (2, 7)
    assert auxiliary is not None
    assert auxiliary.shape == (2, 7)
    assert net.eval()(torch.randn(1, 3, height, width))[1] is None


def test_normalised_pools_only_add_the_names_of_their_normalisation() -> None:
    cell = PUBLISHED["MMRAZOR_9732"]
    plain, normalised = Network(cell, 4, 5, auxiliary=True), Network(cell, 4, 5, pool_norm=True)
    added = normalised.state_dict().keys() - plain.state_dict().keys()
    assert {key.rpartition(".")[0] for key in added} == {
        f"cells.{i}._ops.{j}.1" for i in (1, 3) for j in (0, 2, 4, 6)
    }
    lost = plain.state_dict().keys() - normalised.state_dict().keys()
    assert all(key.startswith("auxiliary_head.") for key in lost)


def test_a_normalised_pool_is_the_pool_and_then_the_normalisation() -> None:
    torch.manual_seed(0)
    cell = Cell(PUBLISHED["DARTS_V2"], CellPlan("reduce", 4, 4, 4, False), pool_norm=True).train()
    x = torch.randn(5, 4, 8, 8)
    out = cell._edge(0, [x], None)
    pooled = nn.functional.max_pool2d(x, 3, 2, 1)
    torch.testing.assert_close(out, nn.functional.batch_norm(pooled, None, None, training=True))
    dropped = cell._edge(0, [x], torch.zeros(1, 5, 1, 1, 1))
    assert not dropped.any(), "a pool is dropped whole, with its normalisation"


@pytest.mark.parametrize("seed", range(4))
def test_random_cells_of_any_size_build(seed: int) -> None:
    net = Network(random_genotype(seed, nodes=seed + 1), 4, 3, 10, 1)
    assert net(torch.randn(2, 1, 9, 8))[0].shape == (2, 10)


def test_drop_path_acts_in_training_only_and_is_off_until_set() -> None:
    torch.manual_seed(1)
    net, x = Network(PUBLISHED["DARTS_V2"], 4, 3), torch.randn(4, 3, 8, 8)
    assert net.drop_path is None
    net.eval()
    before = net(x)[0]
    net.drop_path = torch.tensor(0.9)
    assert torch.equal(net(x)[0], before)
    net.train()
    assert not torch.equal(net(x)[0], net(x)[0])


@pytest.mark.parametrize(("kind", "dropped"), [("normal", False), ("reduce", True)])
def test_drop_path_spares_identities_but_not_a_skip_that_halves(kind: str, dropped: bool) -> None:
    torch.manual_seed(2)
    skips = (("skip_connect", 0), ("skip_connect", 1))
    cell = Cell(Genotype(skips, (2,), skips, (2,)), CellPlan(kind, 4, 4, 4, False)).train()
    x = torch.randn(64, 4, 8, 8)
    out = cell._edge(0, [x], kept_paths(2, x, torch.tensor(0.5)))
    zero = int((out.flatten(1).abs().sum(1) == 0).sum())
    assert 16 < zero < 48 if dropped else torch.equal(out, x)


def test_kept_paths_are_scaled_by_the_keeping_probability() -> None:
    torch.manual_seed(3)
    cell = Cell(PUBLISHED["DARTS_V2"], CellPlan("reduce", 4, 4, 4, False)).train()
    x = torch.rand(200, 4, 8, 8)
    pooled = cell._ops[0](x)
    out = cell._edge(0, [x], kept_paths(8, x, torch.tensor(0.25)))
    kept = out.flatten(1).abs().sum(1) > 0
    torch.testing.assert_close(out[kept], pooled[kept] / 0.75)
    assert 0.6 < float(kept.float().mean()) < 0.9


def test_each_path_drops_images_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(4)
    drawn = kept_paths(3, torch.zeros(400, 1, 1, 1), torch.tensor(0.5)).flatten(1) > 0
    together = (drawn[:, None] == drawn[None]).float().mean(dim=2)
    apart = ~torch.eye(3, dtype=torch.bool)
    assert bool(((together[apart] > 0.4) & (together[apart] < 0.6)).all()), "no two are alike"
    net = Network(PUBLISHED["DARTS_V2"], 4, 3).train()
    net.drop_path = torch.tensor(0.3)
    asked: list[int] = []

    def counted(paths: int, x: Tensor, probability: Tensor) -> Tensor:
        asked.append(paths)
        return kept_paths(paths, x, probability)

    monkeypatch.setattr(network, "kept_paths", counted)
    net(torch.randn(2, 3, 8, 8))
    assert asked == [8, 8, 8], "one draw a cell, a path for each of its operations"


def test_drop_path_follows_its_tensor_and_zero_drops_nothing() -> None:
    x, probability = torch.rand(500, 2, 1, 1) + 1, torch.tensor(0.0)
    assert torch.equal(drop_path(x, probability), x)
    probability.fill_(0.4)
    torch.manual_seed(0)
    out = drop_path(x, probability)
    assert 0.3 < float((out[:, 0] == 0).float().mean()) < 0.5
    assert drop_path(x.bfloat16(), probability).dtype == torch.bfloat16
