"""The network for ImageNet: sizes of its maps, the auxiliary head, names, any size of image."""

from collections import defaultdict

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from darts_lib.genotype import PUBLISHED
from darts_lib.imagenet_network import ImageNetNetwork
from darts_lib.operations import FactorizedReduce

CELL = PUBLISHED["DARTS_V2"]


def small(auxiliary: bool = False, layers: int = 5) -> ImageNetNetwork:
    torch.manual_seed(0)
    return ImageNetNetwork(CELL, 4, layers, 7, auxiliary)


def outputs(net: ImageNetNetwork, image: Tensor) -> dict[str, tuple[int, ...]]:
    """Return the shape that each part puts out."""
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str, out: Tensor) -> None:
        shapes[name] = tuple(out.shape)

    parts = {name: net.get_submodule(name) for name in ("stem0", "stem1", "classifier")}
    parts |= {f"cells.{i}": cell for i, cell in enumerate(net.cells)}
    for name, part in parts.items():
        part.register_forward_hook(lambda _, __, out, name=name: note(name, out))
    net(image)
    return shapes


def test_maps_at_the_papers_size() -> None:
    with torch.device("meta"):
        net, image = ImageNetNetwork(CELL).eval(), torch.zeros(2, 3, 224, 224)
    shapes = outputs(net, image)
    assert shapes["stem0"] == (2, 48, 56, 56)
    assert shapes["stem1"] == (2, 48, 28, 28)
    cells = [shapes[f"cells.{i}"] for i in range(14)]
    assert cells == [
        *[(2, 192, 28, 28)] * 4, *[(2, 384, 14, 14)] * 5, *[(2, 768, 7, 7)] * 5,
    ]  # fmt: skip
    assert shapes["classifier"] == (2, 1000)


def test_only_the_first_input_of_the_first_cell_is_reduced_before_a_reduction() -> None:
    reduced = [isinstance(cell.preprocess0, FactorizedReduce) for cell in small(layers=6).cells]
    assert reduced == [True, False, False, True, False, True]


@pytest.mark.parametrize("size", [64, 96, 224, (65, 65), (77, 100), (127, 66)])
def test_any_image_size(size: int | tuple[int, int]) -> None:
    height, width = (size, size) if isinstance(size, int) else size
    net, images = small(auxiliary=True), torch.randn(2, 3, height, width)
    logits, auxiliary = net(images)
    assert auxiliary is not None
    assert logits.shape == auxiliary.shape == (2, 7)
    gradients = torch.autograd.grad(logits.sum() + auxiliary.sum(), list(net.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_the_auxiliary_head_runs_in_training_only() -> None:
    images = torch.randn(2, 3, 64, 64)
    net = small(auxiliary=True)
    assert net(images)[1] is not None
    assert net.eval()(images)[1] is None
    assert small()(images)[1] is None


def test_the_auxiliary_head_is_the_published_one_on_7x7_maps() -> None:
    head = ImageNetNetwork(CELL, 4, 5, 7, auxiliary=True).eval().auxiliary_head
    assert head is not None
    x = torch.randn(3, 64, 7, 7)
    assert torch.equal(head(x), head.classifier(head.features(x).flatten(1)))
    corners = F.avg_pool2d(x.relu(), 5, stride=2)
    assert torch.equal(head.features[:2](x), corners)
    assert corners.shape[-2:] == (2, 2)


def test_the_auxiliary_head_pools_other_maps_to_2x2() -> None:
    head = ImageNetNetwork(CELL, 4, 5, 7, auxiliary=True).eval().auxiliary_head
    assert head is not None
    x = torch.randn(3, 64, 8, 10)
    by_hand = F.avg_pool2d(x.relu(), (4, 5))
    torch.testing.assert_close(head(x), head.classifier(head.features[2:](by_hand).flatten(1)))


def test_the_mean_is_the_published_pooling_at_the_papers_size() -> None:
    net = small().eval()
    maps: list[Tensor] = []
    net.cells[-1].register_forward_hook(lambda _, __, out: maps.append(out))
    logits = net(torch.randn(1, 3, 224, 224))[0]
    assert maps[0].shape[-2:] == (7, 7)
    torch.testing.assert_close(logits, net.classifier(F.avg_pool2d(maps[0], 7).flatten(1)))


def test_drop_path_acts_when_it_is_set() -> None:
    net, images = small(), torch.randn(4, 3, 64, 64)
    assert torch.equal(net(images)[0], net(images)[0])
    net.drop_path = torch.tensor(0.5)
    assert not torch.equal(net(images)[0], net(images)[0])


def test_names_are_those_of_the_original() -> None:
    with torch.device("meta"):
        shapes = {
            k: tuple(v.shape) for k, v in ImageNetNetwork(CELL, auxiliary=True).state_dict().items()
        }
    parts: dict[str, set[str]] = defaultdict(set)
    for key in shapes:
        part, _, rest = key.partition(".")
        parts[part].add(rest.split(".")[0])
    cells = {str(i) for i in range(14)}
    assert parts == {
        "stem0": {"0", "1", "3", "4"},
        "stem1": {"1", "2"},
        "cells": cells,
        "auxiliary_head": {"features", "classifier"},
        "classifier": {"weight", "bias"},
    }
    features = {key.split(".")[2] for key in shapes if key.startswith("auxiliary_head.features.")}
    assert features == {"2", "3", "5"}, "the last normalisation, 6, is left out"
    assert shapes["stem0.0.weight"] == (24, 3, 3, 3)
    assert shapes["stem0.3.weight"] == (48, 24, 3, 3)
    assert shapes["stem1.1.weight"] == (48, 48, 3, 3)
    assert shapes["cells.0.preprocess0.conv_1.weight"] == (24, 48, 1, 1)
    assert shapes["cells.0.preprocess1.op.1.weight"] == (48, 48, 1, 1)
    assert shapes["auxiliary_head.features.2.weight"] == (128, 768, 1, 1)
    assert shapes["classifier.weight"] == (1000, 768)


def test_the_stem_halves_three_times_without_a_last_relu() -> None:
    net = small()
    assert [type(part) for part in net.stem0] == [
        nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Conv2d, nn.BatchNorm2d,
    ]  # fmt: skip
    assert [type(part) for part in net.stem1] == [nn.ReLU, nn.Conv2d, nn.BatchNorm2d]
    quarter, eighth = net.run_stem(torch.randn(2, 3, 65, 72))
    assert quarter.shape == (2, 4, 17, 18)
    assert eighth.shape == (2, 4, 9, 9)
    assert quarter.min() < 0


def test_odd_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="channels must be even"):
        ImageNetNetwork(CELL, 5, 5)
