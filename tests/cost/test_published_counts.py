"""Every published figure of the networks, exactly: parameters, operations by each rule, names.

The figures were measured on the original code and on MMRazor's.
"""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from darts_lib.cost.complexity import count_parameters, multiply_adds, published_flops
from darts_lib.genotype import PUBLISHED
from darts_lib.network import ImageNetNetwork, Network
from darts_lib.operations import build_operation
from darts_lib.relaxation import Supernet
from darts_lib.search_space import KINDS

CIFAR, IMAGENET = (3, 32, 32), (3, 224, 224)

# Parameters without and with the auxiliary head; channels that the classifier reads; multiply-adds
# without and with the head; the published page's rule; keys of the state with the head.
CIFAR_NETWORKS = {
    "DARTS_V1": (3_169_414, 3_645_840, 576, 500_987_520, 501_683_328, 518_940_288, 1524),
    "DARTS_V2": (3_349_342, 3_825_768, 576, 528_359_040, 529_054_848, 547_473_024, 1650),
    "NASNet": (3_830_950, 4_288_944, 720, 603_452_448, 604_074_528, 624_234_528, 1664),
    "AmoebaNet": (3_145_078, 3_603_072, 432, 488_931_552, 489_553_632, 506_294_496, 1398),
    "MMRAZOR_9732": (2_946_286, 3_422_712, 576, 467_782_272, 468_478_080, 483_633_792, 1314),
    # Without normalised pools it has 2,160 parameters and 276,480 values less, like DARTS_V2.
    "MMRAZOR_ALIAS": (3_349_342, 3_825_768, 576, 528_359_040, 529_054_848, 547_473_024, 1650),
}
WITH_POOL_NORM = {
    "MMRAZOR_9732": (2_948_014, 3_424_440, 576, 467_782_272, 468_478_080, 483_854_976, 1354),
    "MMRAZOR_ALIAS": (3_351_502, 3_827_928, 576, 528_359_040, 529_054_848, 547_749_504, 1700),
}

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


def test_networks_for_small_images() -> None:
    rows = [(name, False, counts) for name, counts in CIFAR_NETWORKS.items()]
    rows += [(name, True, counts) for name, counts in WITH_POOL_NORM.items()]
    for name, pool_norm, counts in rows:
        net = Network(PUBLISHED[name], auxiliary=True, pool_norm=pool_norm)
        found = (
            *(without_head(net), count_parameters(net), net.classifier.in_features),
            *(multiply_adds(net, CIFAR), multiply_adds_in_training(net)),
            *(published_flops(net, CIFAR), len(net.state_dict())),
        )
        assert found == counts, name
        bare = Network(PUBLISHED[name], auxiliary=False, pool_norm=pool_norm)
        assert count_parameters(bare) == counts[0]


def test_parts_of_darts_v2() -> None:
    assert count_parameters(Network(PUBLISHED["NASNet"], 32, auxiliary=False)) == 3_061_738
    net = Network(PUBLISHED["DARTS_V2"], auxiliary=True)
    assert [count_parameters(cell) for cell in net.cells] == [
        26_532, 27_828, *[29_124] * 4, 21_024, 97_128, *[107_496] * 5, 83_520, 370_512,
        *[411_984] * 5,
    ]  # fmt: skip
    assert (count_parameters(net.stem), count_parameters(net.classifier)) == (3132, 5770)


def test_networks_for_imagenet() -> None:
    for name, counts in IMAGENET_NETWORKS.items():
        net = ImageNetNetwork(PUBLISHED[name], auxiliary=True)
        assert (without_head(net), count_parameters(net), multiply_adds(net, IMAGENET)) == counts
        assert count_parameters(ImageNetNetwork(PUBLISHED[name], auxiliary=False)) == counts[0]


def test_parts_of_darts_v2_for_imagenet() -> None:
    net = ImageNetNetwork(PUBLISHED["DARTS_V2"], auxiliary=True)
    assert [count_parameters(cell) for cell in net.cells] == [
        35_952, 42_864, 49_776, 49_776, 37_248, 168_672, *[187_104] * 3, 148_224, 650_688,
        *[724_416] * 3,
    ]  # fmt: skip
    assert count_parameters(net.stem0) + count_parameters(net.stem1) == 31_992
    stems = multiply_adds(net.stem0, IMAGENET) + multiply_adds(net.stem1, (48, 56, 56))
    assert stems == 56_899_584
    assert count_parameters(net.classifier) == 769_000
    assert len(net.state_dict()) == 1124
    assert published_flops(net, IMAGENET) == 544_588_032


def test_supernets_and_their_parts() -> None:
    assert {size: count_parameters(Supernet(*size)) for size in SUPERNETS} == SUPERNETS
    net = Supernet()
    weights = {kind: torch.zeros(14, 8) for kind in KINDS}
    assert [count_parameters(cell) for cell in net.cells] == [
        45_888, 46_144, 144_000, 137_856, 139_904, 484_608, 460_032, 468_224,
    ]  # fmt: skip
    assert (count_parameters(net.stem), count_parameters(net.classifier)) == (1392, 2570)
    assert multiply_adds(net, CIFAR, weights) == 300_255_744
    # The original keeps three statistics in each normalisation, which this supernet does not.
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    assert len(net.state_dict()) + 3 * norms == 4186


def test_operations() -> None:
    cases = [(stride, affine) for stride in (1, 2) for affine in (False, True)]
    for name, counts in OPERATION_COUNTS.items():
        built = {case: build_operation(name, 16, *case) for case in cases}
        parameters = [count_parameters(operation) for operation in built.values()]
        madds = [multiply_adds(built[stride, True], (16, 32, 32)) for stride in (1, 2)]
        assert (*parameters, *madds) == counts, name
