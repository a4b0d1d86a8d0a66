"""Derived networks: exact published counts, the auxiliary head, drop path."""

import pytest
import torch
from torch import nn

from darts_lib.complexity import count_parameters, multiply_adds
from darts_lib.derivation import random_genotype
from darts_lib.genotype import PUBLISHED, Genotype
from darts_lib.network import AuxiliaryHead, Cell, Network, drop_path
from darts_lib.search_space import CellPlan

# without auxiliary head, with it, multiply-adds, state keys with the head
COUNTS = {
    "DARTS_V1": (3_169_414, 3_645_840, 500_987_520, 1524),
    "DARTS_V2": (3_349_342, 3_825_768, 528_359_040, 1650),
    "NASNet": (3_830_950, 4_288_944, 603_452_448, 1664),
    "AmoebaNet": (3_145_078, 3_603_072, 488_931_552, 1398),
    "MMRAZOR_9732": (2_946_286, 3_422_712, 467_782_272, 1314),
}


def published(name: str, auxiliary: bool = True) -> Network:
    with torch.device("meta"):
        return Network(PUBLISHED[name], auxiliary=auxiliary)


@pytest.mark.parametrize("name", COUNTS)
def test_published_counts(name: str) -> None:
    net = published(name)
    without, with_head, madds, keys = COUNTS[name]
    assert count_parameters(net, without="auxiliary_head") == without
    assert count_parameters(published(name, auxiliary=False)) == without
    assert count_parameters(net) == with_head
    assert multiply_adds(net, (3, 32, 32)) == madds
    assert len(net.state_dict()) == keys


def test_parts_of_darts_v2() -> None:
    net = published("DARTS_V2")
    cells = [count_parameters(cell) for cell in net.cells]
    assert cells == [
        26_532, 27_828, *[29_124] * 4, 21_024, 97_128, *[107_496] * 5, 83_520, 370_512,
        *[411_984] * 5,
    ]  # fmt: skip
    assert count_parameters(net.stem) == 3132
    assert count_parameters(net.classifier) == 5770


def test_one_changed_operation_changes_the_count() -> None:
    net = published("DARTS_V2")
    net.cells[3]._ops[0] = nn.Conv2d(36, 37, 1)
    assert count_parameters(net, without="auxiliary_head") != COUNTS["DARTS_V2"][0]


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
    out = cell._edge(0, [x], torch.tensor(0.5))
    zero = int((out.flatten(1).abs().sum(1) == 0).sum())
    assert 16 < zero < 48 if dropped else torch.equal(out, x)


def test_kept_paths_are_scaled_by_the_keeping_probability() -> None:
    torch.manual_seed(3)
    cell = Cell(PUBLISHED["DARTS_V2"], CellPlan("reduce", 4, 4, 4, False)).train()
    x = torch.rand(200, 4, 8, 8)
    pooled = cell._ops[0](x)
    out = cell._edge(0, [x], torch.tensor(0.25))
    kept = out.flatten(1).abs().sum(1) > 0
    torch.testing.assert_close(out[kept], pooled[kept] / 0.75)
    assert 0.6 < float(kept.float().mean()) < 0.9


def test_drop_path_follows_its_tensor_and_zero_drops_nothing() -> None:
    x, probability = torch.rand(500, 2, 1, 1) + 1, torch.tensor(0.0)
    assert torch.equal(drop_path(x, probability), x)
    probability.fill_(0.4)
    torch.manual_seed(0)
    out = drop_path(x, probability)
    assert 0.3 < float((out[:, 0] == 0).float().mean()) < 0.5
    assert drop_path(x.bfloat16(), probability).dtype == torch.bfloat16
