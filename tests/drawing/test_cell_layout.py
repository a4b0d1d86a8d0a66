"""The geometry of a drawn cell, by itself."""

import pytest

from darts_lib.derivation import random_genotype
from darts_lib.drawing.cell_layout import depths, layout_cell, least_width, one_a_column, tall
from darts_lib.genotype import PUBLISHED

NAME = (1.1, 0.22)


def test_columns_follow_what_a_node_hears() -> None:
    assert depths(PUBLISHED["DARTS_V2"].normal) == (0, 0, 1, 1, 1, 2)
    assert depths(PUBLISHED["AmoebaNet"].normal) == (0, 0, 1, 2, 3, 1, 1)
    assert tall(PUBLISHED["DARTS_V2"].normal) == 3
    assert tall(PUBLISHED["NASNet"].normal) == 5


@pytest.mark.parametrize("seed", range(6))
def test_every_edge_goes_right(seed: int) -> None:
    genotype = random_genotype(seed)
    width = least_width(max(depths(genotype.normal)), NAME[0])
    layout = layout_cell(genotype.normal, genotype.normal_concat, (width, 4.0), NAME)
    for route in (*layout.routes, *layout.output_routes.values()):
        across = [x for x, _ in route]
        assert across == sorted(across)


def test_wires_and_ends_keep_apart() -> None:
    pairs = (("avg_pool_3x3", 0), ("avg_pool_3x3", 0))
    layout = layout_cell(pairs, (2,), (5.0, 3.0), NAME)
    (_, upper), (_, lower) = layout.names
    assert abs(upper - lower) >= NAME[1]
    # Input 0 to node 1 must clear node 0, which stands between them.
    pairs = (("skip_connect", 0), ("skip_connect", 1), ("skip_connect", 0), ("skip_connect", 2))
    layout = layout_cell(pairs, (3,), (7.0, 4.0), NAME)
    lane, (_, node) = layout.routes[2][1:3], layout.states[2]
    assert all(abs(y - node) > NAME[1] for _, y in lane)


def test_an_animation_keeps_nodes_in_place() -> None:
    places = []
    for seed in range(6):
        genotype = random_genotype(seed)
        columns = one_a_column(genotype.normal)
        size = (9.0, 2.0)
        places.append(layout_cell(genotype.normal, (2, 5), size, (0.74, 0.38), columns).states)
    assert all(place == places[0] for place in places)
