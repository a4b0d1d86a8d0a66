"""Every published figure of the networks, exactly: parameters, operations by each rule, names.

The figures were measured on the original code and on MMRazor's.
"""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from darts_lib.cost.complexity import count_parameters, flops, multiply_adds, published_flops
from darts_lib.genotype import PUBLISHED
from darts_lib.network import ImageNetNetwork, Network
from darts_lib.operations import OPERATIONS, SeparableConv, build_operation
from darts_lib.relaxation import Supernet
from darts_lib.search_space import KINDS

CIFAR, IMAGENET = (3, 32, 32), (3, 224, 224)

# By (cell, normalised pools): parameters without and with the auxiliary head, the head's; channels
# that the classifier reads; operations, multiply-adds, those with the head; the published page's
# rule; keys of the state with the head.
CIFAR_NETWORKS = {
    ("DARTS_V1", False): (3_169_414, 3_645_840, 476_426, 576,
        1_001_975_040, 500_987_520, 501_683_328, 518_940_288, 1524),
    ("DARTS_V2", False): (3_349_342, 3_825_768, 476_426, 576,
        1_056_718_080, 528_359_040, 529_054_848, 547_473_024, 1650),
    ("NASNet", False): (3_830_950, 4_288_944, 457_994, 720,
        1_206_904_896, 603_452_448, 604_074_528, 624_234_528, 1664),
    ("AmoebaNet", False): (3_145_078, 3_603_072, 457_994, 432,
        977_863_104, 488_931_552, 489_553_632, 506_294_496, 1398),
    ("MMRAZOR_9732", False): (2_946_286, 3_422_712, 476_426, 576,
        935_564_544, 467_782_272, 468_478_080, 483_633_792, 1314),
    ("MMRAZOR_9732", True): (2_948_014, 3_424_440, 476_426, 576,
        935_564_544, 467_782_272, 468_478_080, 483_854_976, 1354),
    ("MMRAZOR_ALIAS", True): (3_351_502, 3_827_928, 476_426, 576,
        1_056_718_080, 528_359_040, 529_054_848, 547_749_504, 1700),
}  # fmt: skip
# Without normalised pools it has 2,160 parameters and 276,480 values less, like DARTS_V2.
CIFAR_NETWORKS["MMRAZOR_ALIAS", False] = CIFAR_NETWORKS["DARTS_V2", False]

# Parameters without and with the auxiliary head, multiply-adds.
IMAGENET_NETWORKS = {
    "DARTS_V2": (4_718_752, 5_979_528, 529_911_552),
    "DARTS_V1": (4_510_432, 5_771_208, 505_864_704),
    "NASNet": (5_564_320, 6_800_520, 604_031_616),
    "AmoebaNet": (4_627_360, 5_863_560, 526_746_624),
    "MMRAZOR_9732": (4_289_152, 5_549_928, 478_252_224),
}

# The supernet's weights by (channels, layers).
SUPERNETS = {(16, 8): 1_930_618, (4, 8): 207_094, (8, 5): 394_210, (6, 20): 897_640}

# At 16 channels. Parameters: stride 1, without gain and with it; stride 2, likewise. Multiply-adds
# on 32x32: stride 1, stride 2.
OPERATION_COUNTS = {
    "none": (0, 0, 0, 0, 0, 0),
    "max_pool_3x3": (0, 0, 0, 0, 0, 0),
    "avg_pool_3x3": (0, 0, 0, 0, 0, 0),
    "skip_connect": (0, 0, 256, 288, 0, 65_536),
    "sep_conv_3x3": (800, 864, 800, 864, 819_200, 204_800),
    "sep_conv_5x5": (1312, 1376, 1312, 1376, 1_343_488, 335_872),
    "sep_conv_7x7": (2080, 2144, 2080, 2144, 2_129_920, 532_480),
    "dil_conv_3x3": (400, 432, 400, 432, 409_600, 102_400),
    "dil_conv_5x5": (656, 688, 656, 688, 671_744, 167_936),
    "conv_7x1_1x7": (3584, 3616, 3584, 3616, 3_670_016, 1_376_256),
}


def without_head(net: nn.Module) -> int:
    return count_parameters(net, without="auxiliary_head")


def multiply_adds_in_training(net: nn.Module) -> int:
    """Count a pass that runs the auxiliary head; its batch needs two images to be normalised."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net.train()(torch.zeros(2, *CIFAR))
    return int(counter.get_total_flops()) // 4


def counts(name: str, pool_norm: bool) -> tuple[int, ...]:
    net = Network(PUBLISHED[name], auxiliary=True, pool_norm=pool_norm)
    assert net.auxiliary_head is not None
    bare = Network(PUBLISHED[name], auxiliary=False, pool_norm=pool_norm)
    assert count_parameters(bare) == without_head(net)
    return (
        without_head(net), count_parameters(net), count_parameters(net.auxiliary_head),
        net.classifier.in_features, flops(net, CIFAR), multiply_adds(net, CIFAR),
        multiply_adds_in_training(net), published_flops(net, CIFAR), len(net.state_dict()),
    )  # fmt: skip


@pytest.mark.parametrize(("name", "pool_norm"), CIFAR_NETWORKS)
def test_networks_for_small_images(name: str, pool_norm: bool) -> None:
    assert counts(name, pool_norm) == CIFAR_NETWORKS[name, pool_norm]


def test_one_changed_convolution_fails_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = lambda c, stride, affine: SeparableConv(c, 5, stride, affine)  # noqa: E731
    monkeypatch.setitem(OPERATIONS, "sep_conv_3x3", changed)
    wrong = counts("DARTS_V2", False)
    same = [a == b for a, b in zip(wrong, CIFAR_NETWORKS["DARTS_V2", False], strict=True)]
    # A larger kernel changes neither the head, nor the channels, nor any name.
    assert same == [False, False, True, True, False, False, False, False, True]


def test_parts_of_darts_v2() -> None:
    assert count_parameters(Network(PUBLISHED["NASNet"], 32, auxiliary=False)) == 3_061_738
    net = Network(PUBLISHED["DARTS_V2"], auxiliary=True)
    assert [count_parameters(part) for part in (net.stem, *net.cells, net.classifier)] == [
        3132, 26_532, 27_828, *[29_124] * 4, 21_024, 97_128, *[107_496] * 5, 83_520, 370_512,
        *[411_984] * 5, 5770,
    ]  # fmt: skip


@pytest.mark.parametrize("name", IMAGENET_NETWORKS)
def test_networks_for_imagenet(name: str) -> None:
    net, bare = (ImageNetNetwork(PUBLISHED[name], auxiliary=head) for head in (True, False))
    found = without_head(net), count_parameters(net), multiply_adds(net, IMAGENET)
    assert found == IMAGENET_NETWORKS[name]
    assert count_parameters(bare) == found[0]


def test_parts_of_darts_v2_for_imagenet() -> None:
    net = ImageNetNetwork(PUBLISHED["DARTS_V2"], auxiliary=True)
    parts = (nn.ModuleList([net.stem0, net.stem1]), *net.cells, net.auxiliary_head, net.classifier)
    assert [count_parameters(part) for part in parts] == [  # type: ignore[arg-type]
        31_992, 35_952, 42_864, 49_776, 49_776, 37_248, 168_672, *[187_104] * 3, 148_224, 650_688,
        *[724_416] * 3, 1_260_776, 769_000,
    ]  # fmt: skip
    stems = multiply_adds(net.stem0, IMAGENET) + multiply_adds(net.stem1, (48, 56, 56))
    found = stems, flops(net, IMAGENET), published_flops(net, IMAGENET), len(net.state_dict())
    assert found == (56_899_584, 1_059_823_104, 544_588_032, 1124)


def test_supernets_and_their_parts() -> None:
    assert {size: count_parameters(Supernet(*size)) for size in SUPERNETS} == SUPERNETS
    net = Supernet()
    assert [count_parameters(part) for part in (net.stem, *net.cells, net.classifier)] == [
        1392, 45_888, 46_144, 144_000, 137_856, 139_904, 484_608, 460_032, 468_224, 2570,
    ]  # fmt: skip
    weights = {kind: torch.zeros(14, 8) for kind in KINDS}
    found = multiply_adds(net, CIFAR, weights), flops(net, CIFAR, weights)
    assert found == (300_255_744, 600_511_488)
    # The original keeps three statistics in each normalisation, which this supernet does not.
    net = Supernet()
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    assert len(net.state_dict()) + 3 * norms == 4186


@pytest.mark.parametrize("name", OPERATION_COUNTS)
def test_operations(name: str) -> None:
    built = [build_operation(name, 16, stride, gain) for stride in (1, 2) for gain in (False, True)]
    parameters = [count_parameters(operation) for operation in built]
    madds = [multiply_adds(operation, (16, 32, 32)) for operation in built[1::2]]
    assert (*parameters, *madds) == OPERATION_COUNTS[name]
