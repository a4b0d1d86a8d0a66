"""Derived networks of both forms: maps, names, pools, the auxiliary head, drop path."""

import pytest
import torch
from fuzz_tools import Patch
from torch import nn
from torch.nn import functional as F

from darts_lib import network
from darts_lib.derivation import random_genotype
from darts_lib.genotype import PUBLISHED, Genotype
from darts_lib.network import AuxiliaryHead, Cell, ImageNetNetwork, Network, drop_path, kept_paths
from darts_lib.operations import FactorizedReduce
from darts_lib.search_space import KINDS, CellPlan

DARTS = PUBLISHED["DARTS_V2"]


def imagenet(auxiliary: bool = False, layers: int = 5) -> ImageNetNetwork:
    torch.manual_seed(0)
    return ImageNetNetwork(DARTS, 4, layers, 7, auxiliary)


def test_a_cell_adds_two_operations_a_node() -> None:
    torch.manual_seed(0)
    genotype = random_genotype(3, nodes=3)
    cell = Cell(genotype, CellPlan("reduce", 4, 6, 8, True)).train()
    before, previous = torch.randn(2, 6, 12, 10), torch.randn(2, 8, 6, 5)
    states = [cell.preprocess0(before), cell.preprocess1(previous)]
    for i in (0, 2, 4):
        (_, first), (_, second) = genotype.reduce[i : i + 2]
        states.append(cell._ops[i](states[first]) + cell._ops[i + 1](states[second]))
    assert torch.equal(cell(before, previous, None), torch.cat(states[2:], dim=1))


def test_maps_and_names_of_the_imagenet_form_at_the_papers_size() -> None:
    with torch.device("meta"):
        net, image = ImageNetNetwork(DARTS, auxiliary=True).eval(), torch.zeros(2, 3, 224, 224)
    maps: list[tuple[int, ...]] = []
    for part in (net.stem0, net.stem1, *net.cells, net.classifier):
        part.register_forward_hook(lambda _, __, out: maps.append(tuple(out.shape)))
    net(image)
    assert maps == [
        (2, 48, 56, 56), (2, 48, 28, 28), *[(2, 192, 28, 28)] * 4, *[(2, 384, 14, 14)] * 5,
        *[(2, 768, 7, 7)] * 5, (2, 1000),
    ]  # fmt: skip
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    features = {key.split(".")[2] for key in shapes if key.startswith("auxiliary_head.features.")}
    assert features == {"2", "3", "5"}, "the last normalisation, 6, is left out"
    parts = {key.split(".")[0] for key in shapes}
    assert parts == {"stem0", "stem1", "cells", "auxiliary_head", "classifier"}
    named = {
        "stem0.0.weight": (24, 3, 3, 3),
        "stem0.3.weight": (48, 24, 3, 3),
        "stem1.1.weight": (48, 48, 3, 3),
        "cells.0.preprocess0.conv_1.weight": (24, 48, 1, 1),
        "cells.0.preprocess1.op.1.weight": (48, 48, 1, 1),
        "auxiliary_head.features.2.weight": (128, 768, 1, 1),
        "classifier.weight": (1000, 768),
    }
    assert {name: shapes[name] for name in named} == named


def test_only_the_first_input_of_the_first_cell_is_reduced_before_a_reduction() -> None:
    reduced = [isinstance(cell.preprocess0, FactorizedReduce) for cell in imagenet(layers=6).cells]
    assert reduced == [True, False, False, True, False, True]


def test_the_stem_ends_without_a_relu_and_needs_even_channels() -> None:
    net = imagenet()
    norm, conv, relu = nn.BatchNorm2d, nn.Conv2d, nn.ReLU
    stem = [type(part) for part in (*net.stem0, *net.stem1)]
    assert stem == [conv, norm, relu, conv, norm, relu, conv, norm]
    assert net(torch.randn(2, 3, 65, 72))[1] is None, "without a head"
    with pytest.raises(ValueError, match="channels must be even"):
        ImageNetNetwork(DARTS, 5, 5)


@pytest.mark.parametrize(("head", "side"), [
    (AuxiliaryHead(12, 5), 8), (ImageNetNetwork(DARTS, 4, 5, 7, True).auxiliary_head, 7),
])  # fmt: skip
def test_the_auxiliary_head_is_the_published_on_its_maps(head: AuxiliaryHead, side: int) -> None:
    x = torch.randn(3, head.features[2].in_channels, side, side)
    assert torch.equal(head.eval()(x), head.classifier(head.features(x).flatten(1)))
    corners = F.avg_pool2d(x.relu(), 5, stride=side - 5)
    assert torch.equal(head.features[:2](x), corners)
    assert corners.shape[-2:] == (2, 2)


SMALL = {(24, 24), (32, 32), (48, 48), (30, 33), (8, 8), (7, 9)}


@pytest.mark.parametrize("size", [*SMALL, (64, 64), (65, 65), (77, 100), (127, 66)])
def test_auxiliary_head_at_any_image_size(size: tuple[int, int]) -> None:
    net = Network(DARTS, 4, 5, 7, 3, auxiliary=True) if size in SMALL else imagenet(auxiliary=True)
    images = torch.randn(2, 3, *size)
    logits, auxiliary = net(images)
    assert logits.shape == auxiliary.shape == (2, 7)
    found = torch.autograd.grad(logits.sum() + auxiliary.sum(), list(net.parameters()))
    assert all(gradient.isfinite().all() for gradient in found)
    assert net.eval()(images)[1] is None, "in training only"


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
    cell = Cell(DARTS, CellPlan("reduce", 4, 4, 4, False), pool_norm=True).train()
    x, paths = torch.randn(5, 4, 8, 8), torch.full((1, 5, 1, 1, 1), 2.0)
    expected = F.batch_norm(F.max_pool2d(x, 3, 2, 1), None, None, training=True)
    out = cell._ops[0](x)
    torch.testing.assert_close(cell._kept(out, 0, None), expected)
    kept = cell._kept(out, 0, paths)
    torch.testing.assert_close(kept, 2 * expected, msg="a path is the whole")


def test_drop_path_acts_in_training_only_and_is_off_until_set() -> None:
    torch.manual_seed(1)
    net, x = Network(DARTS, 4, 3).eval(), torch.randn(4, 3, 8, 8)
    assert net.drop_path is None
    before = net(x)[0]
    net.drop_path = torch.tensor(0.9)
    assert torch.equal(net(x)[0], before)
    assert not torch.equal(net.train()(x)[0], net(x)[0])


def test_drop_path_spares_identities_but_not_a_skip_that_halves() -> None:
    skips = (("skip_connect", 0), ("skip_connect", 1))
    x, all_dropped = torch.randn(4, 4, 8, 8), torch.zeros(2, 4, 1, 1, 1)
    for kind in KINDS:
        cell = Cell(Genotype(skips, (2,), skips, (2,)), CellPlan(kind, 4, 4, 4, False))
        out = cell._kept(cell._ops[0](x), 0, all_dropped)
        assert torch.equal(out, x) if kind == "normal" else not out.any()


def test_each_path_drops_images_of_its_own(monkeypatch: Patch) -> None:
    torch.manual_seed(4)
    drawn = kept_paths(3, torch.zeros(400, 1, 1, 1), torch.tensor(0.5)).flatten(1) > 0
    together = (drawn[:, None] == drawn[None]).float().mean(dim=2)
    apart = ~torch.eye(3, dtype=torch.bool)
    assert bool(((together[apart] > 0.4) & (together[apart] < 0.6)).all()), "no two are alike"
    net, draws = imagenet(layers=3), list[int]()
    net.drop_path = torch.tensor(0.3)
    counted = lambda paths, *rest: draws.append(paths) or kept_paths(paths, *rest)  # noqa: E731
    monkeypatch.setattr(network, "kept_paths", counted)
    net(torch.randn(2, 3, 64, 64))
    assert draws == [8, 8, 8], "one draw a cell, a path for each of its operations"


def test_drop_path_follows_its_tensor_and_scales_what_is_kept() -> None:
    x, probability = torch.rand(500, 2, 1, 1) + 1, torch.tensor(0.0)
    assert torch.equal(drop_path(x, probability), x)
    probability.fill_(0.4)
    torch.manual_seed(0)
    out = drop_path(x, probability)
    dropped = out[:, 0, 0, 0] == 0
    assert 0.3 < float(dropped.float().mean()) < 0.5
    torch.testing.assert_close(out[~dropped], x[~dropped] / 0.6)
    assert drop_path(x.bfloat16(), probability).dtype == torch.bfloat16
