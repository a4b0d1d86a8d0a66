"""Every published figure of the networks, exactly: parameters, operations by each rule, names.

The figures were measured on the original code and on MMRazor's.
"""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from darts_lib.cost.complexity import count_parameters, flops, multiply_adds, published_flops
from darts_lib.genotype import PUBLISHED
from darts_lib.imagenet_network import ImageNetNetwork
from darts_lib.network import Network
from darts_lib.operations import OPERATIONS, SeparableConv, build_operation
from darts_lib.relaxation import Supernet
from darts_lib.search_space import KINDS

CIFAR, IMAGENET = (3, 32, 32), (3, 224, 224)

# Parameters without and with the auxiliary head, operations, multiply-adds, those with the
# auxiliary head, the published page's rule, and the keys of the state with the head.
EVALUATION = {
    "DARTS_V1": (
        3_169_414, 3_645_840, 1_001_975_040, 500_987_520, 501_683_328, 518_940_288, 1524,
    ),
    "DARTS_V2": (
        3_349_342, 3_825_768, 1_056_718_080, 528_359_040, 529_054_848, 547_473_024, 1650,
    ),
    "NASNet": (
        3_830_950, 4_288_944, 1_206_904_896, 603_452_448, 604_074_528, 624_234_528, 1664,
    ),
    "AmoebaNet": (
        3_145_078, 3_603_072, 977_863_104, 488_931_552, 489_553_632, 506_294_496, 1398,
    ),
    "MMRAZOR_9732": (
        2_946_286, 3_422_712, 935_564_544, 467_782_272, 468_478_080, 483_633_792, 1314,
    ),
}  # fmt: skip

# Parameters of the auxiliary head, and channels that the classifier reads, where not 576.
HEADS = {"NASNet": 457_994, "AmoebaNet": 457_994}
FEATURES = {"NASNet": 720, "AmoebaNet": 432}

# MMRazor's own networks, with normalised pools: parameters with the auxiliary head, the head's,
# without it, multiply-adds, the published page's rule, and the keys of the state with the head.
SUBNETS = {
    "MMRAZOR_9732": (3_424_440, 476_426, 2_948_014, 467_782_272, 483_854_976, 1354),
    "MMRAZOR_ALIAS": (3_827_928, 476_426, 3_351_502, 528_359_040, 547_749_504, 1700),
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


def cifar(
    name: str, auxiliary: bool = True, pool_norm: bool = False, channels: int = 36
) -> Network:
    return Network(PUBLISHED[name], channels, auxiliary=auxiliary, pool_norm=pool_norm)


def imagenet(name: str, auxiliary: bool = True) -> ImageNetNetwork:
    return ImageNetNetwork(PUBLISHED[name], auxiliary=auxiliary)


def without_head(net: nn.Module) -> int:
    return count_parameters(net, without="auxiliary_head")


def multiply_adds_in_training(net: nn.Module) -> int:
    """Count a pass that runs the auxiliary head; its batch needs two images to be normalised."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net.train()(torch.zeros(2, *CIFAR))
    return int(counter.get_total_flops()) // 4


@pytest.mark.parametrize("name", EVALUATION)
def test_evaluation_networks(name: str) -> None:
    net = cifar(name)
    assert (
        without_head(net),
        count_parameters(net),
        flops(net, CIFAR),
        multiply_adds(net, CIFAR),
        multiply_adds_in_training(net),
        published_flops(net, CIFAR),
        len(net.state_dict()),
    ) == EVALUATION[name]


@pytest.mark.parametrize("name", EVALUATION)
def test_without_the_option_there_is_no_head(name: str) -> None:
    assert count_parameters(cifar(name, auxiliary=False)) == EVALUATION[name][0]


@pytest.mark.parametrize("name", EVALUATION)
def test_heads(name: str) -> None:
    """Cells that join fewer nodes in their output give the classifiers fewer channels."""
    net = cifar(name)
    assert net.auxiliary_head is not None
    assert count_parameters(net.auxiliary_head) == HEADS.get(name, 476_426)
    assert net.classifier.in_features == FEATURES.get(name, 576)


def test_parts_of_darts_v2() -> None:
    net = cifar("DARTS_V2")
    assert [count_parameters(cell) for cell in net.cells] == [
        26_532, 27_828, *[29_124] * 4, 21_024, 97_128, *[107_496] * 5, 83_520, 370_512,
        *[411_984] * 5,
    ]  # fmt: skip
    assert (count_parameters(net.stem), count_parameters(net.classifier)) == (3132, 5770)


def test_nasnet_of_the_papers_table_has_32_channels() -> None:
    assert count_parameters(cifar("NASNet", auxiliary=False, channels=32)) == 3_061_738


@pytest.mark.parametrize("name", SUBNETS)
def test_subnets_of_mmrazor(name: str) -> None:
    net = cifar(name, pool_norm=True)
    assert net.auxiliary_head is not None
    assert (
        count_parameters(net),
        count_parameters(net.auxiliary_head),
        without_head(net),
        multiply_adds(net, CIFAR),
        published_flops(net, CIFAR),
        len(net.state_dict()),
    ) == SUBNETS[name]


@pytest.mark.parametrize(
    ("name", "parameters", "values"),
    [("MMRAZOR_9732", 1728, 221_184), ("MMRAZOR_ALIAS", 2160, 276_480)],
)
def test_what_normalised_pools_add(name: str, parameters: int, values: int) -> None:
    plain, normalised = cifar(name), cifar(name, pool_norm=True)
    assert count_parameters(normalised) - count_parameters(plain) == parameters
    assert published_flops(normalised, CIFAR) - published_flops(plain, CIFAR) == values


@pytest.mark.parametrize("name", IMAGENET_NETWORKS)
def test_imagenet_networks(name: str) -> None:
    net = imagenet(name)
    assert (
        without_head(net),
        count_parameters(net),
        multiply_adds(net, IMAGENET),
    ) == IMAGENET_NETWORKS[name]
    assert count_parameters(imagenet(name, auxiliary=False)) == IMAGENET_NETWORKS[name][0]


def test_parts_of_darts_v2_for_imagenet() -> None:
    net = imagenet("DARTS_V2")
    assert [count_parameters(cell) for cell in net.cells] == [
        35_952, 42_864, 49_776, 49_776, 37_248, 168_672, *[187_104] * 3, 148_224, 650_688,
        *[724_416] * 3,
    ]  # fmt: skip
    assert count_parameters(net.stem0) + count_parameters(net.stem1) == 31_992
    stems = multiply_adds(net.stem0, IMAGENET) + multiply_adds(net.stem1, (48, 56, 56))
    assert stems == 56_899_584
    assert net.auxiliary_head is not None
    assert count_parameters(net.auxiliary_head) == 1_260_776
    assert count_parameters(net.classifier) == 769_000
    assert len(net.state_dict()) == 1124
    assert flops(net, IMAGENET) == 1_059_823_104
    assert published_flops(net, IMAGENET) == 544_588_032


@pytest.mark.parametrize("size", SUPERNETS)
def test_supernets(size: tuple[int, int]) -> None:
    assert count_parameters(Supernet(*size)) == SUPERNETS[size]


def test_parts_of_the_supernet() -> None:
    net = Supernet()
    alphas = {kind: torch.zeros(14, 8) for kind in KINDS}
    assert [count_parameters(cell) for cell in net.cells] == [
        45_888, 46_144, 144_000, 137_856, 139_904, 484_608, 460_032, 468_224,
    ]  # fmt: skip
    assert (count_parameters(net.stem), count_parameters(net.classifier)) == (1392, 2570)
    assert multiply_adds(net, CIFAR, alphas) == 300_255_744
    assert flops(net, CIFAR, alphas) == 600_511_488


def test_keys_of_the_supernet_are_the_originals_without_running_statistics() -> None:
    """The original keeps three statistics in each normalisation, which this supernet does not."""
    net = Supernet()
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    assert len(net.state_dict()) + 3 * norms == 4186


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(name: str) -> None:
    built = {
        (stride, affine): build_operation(name, 16, stride, affine)
        for stride in (1, 2)
        for affine in (False, True)
    }
    parameters = [count_parameters(operation) for operation in built.values()]
    madds = [multiply_adds(built[stride, True], (16, 32, 32)) for stride in (1, 2)]
    assert (*parameters, *madds) == OPERATION_COUNTS[name]


def one_channel_more(channels: int, stride: int, affine: bool) -> nn.Module:
    """Return a separable 3x3 convolution with one channel too many between its two halves."""
    module = SeparableConv(channels, 3, stride, affine)
    module.op[2] = nn.Conv2d(channels, channels + 1, 1, bias=False)
    module.op[3] = nn.BatchNorm2d(channels + 1, affine=affine)
    module.op[5] = nn.Conv2d(
        channels + 1, channels + 1, 3, padding=1, groups=channels + 1, bias=False
    )
    module.op[6] = nn.Conv2d(channels + 1, channels, 1, bias=False)
    return module


@pytest.mark.parametrize(
    "table",
    [
        partial(test_evaluation_networks, "DARTS_V2"),
        partial(test_subnets_of_mmrazor, "MMRAZOR_9732"),
        partial(test_imagenet_networks, "NASNet"),
        partial(test_supernets, (16, 8)),
        partial(test_nasnet_of_the_papers_table_has_32_channels),
        partial(test_parts_of_darts_v2),
        partial(test_parts_of_darts_v2_for_imagenet),
        partial(test_parts_of_the_supernet),
        partial(test_operations, "sep_conv_3x3"),
    ],
    ids=lambda table: "-".join([table.func.__name__.removeprefix("test_"), *map(str, table.args)]),
)
def test_one_changed_convolution_fails_the_table(
    table: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OPERATIONS, "sep_conv_3x3", one_channel_more)
    with pytest.raises(AssertionError):
        table()
