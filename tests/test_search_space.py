"""The graph and the macro layout against the published figures; counts against enumeration."""

from itertools import combinations, product

import pytest

from darts_lib.search_space import (
    EXTRA_PRIMITIVES,
    PRIMITIVES,
    Stem,
    count_cells,
    count_relaxed_cells,
    edges,
    nodes_of,
    plan_cells,
    reductions,
    row_offset,
)


def test_primitives_are_in_the_order_of_alphas_columns() -> None:
    assert PRIMITIVES[0] == "none"
    assert PRIMITIVES[3] == "skip_connect"
    assert len(PRIMITIVES) == 8
    assert not set(PRIMITIVES) & set(EXTRA_PRIMITIVES)


def test_edges_and_row_offsets() -> None:
    assert len(edges(4)) == 14
    assert {target: row_offset(target) for target in range(2, 6)} == {2: 0, 3: 2, 4: 5, 5: 9}
    for row, (source, target) in enumerate(edges(7)):
        assert row == row_offset(target) + source


@pytest.mark.parametrize("nodes", range(1, 9))
def test_nodes_of_inverts_edges(nodes: int) -> None:
    assert nodes_of(len(edges(nodes))) == nodes


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no cell has 13 edges.*\[9, 14\]"):
        nodes_of(13)
    with pytest.raises(ValueError, match="nodes must be at least 1"):
        edges(0)
    with pytest.raises(ValueError, match="layers must be at least 1"):
        reductions(0)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [(20, (6, 13)), (14, (4, 9)), (8, (2, 5)), (6, (2, 4)), (5, (1, 3)), (1, (0,))],
)
def test_reductions(layers: int, expected: tuple[int, ...]) -> None:
    assert reductions(layers) == expected


def test_channels_of_the_cifar_search_network() -> None:
    plans = plan_cells(16, 8, {"normal": 4, "reduce": 4}, Stem((48, 48)))
    assert [plan.channels for plan in plans] == [16, 16, 32, 32, 32, 64, 64, 64]
    assert [plan.previous_reduces for plan in plans].count(True) == 2
    assert (plans[0].channels_before_previous, plans[0].channels_previous) == (48, 48)
    assert (plans[3].channels_before_previous, plans[3].channels_previous) == (64, 128)


def test_size_of_the_space() -> None:
    assert count_cells() == 1_037_664_180
    assert count_relaxed_cells() == 8**14 == 4_398_046_511_104


@pytest.mark.parametrize(("nodes", "operations"), [(1, 7), (2, 3), (3, 2)])
def test_count_by_enumeration(nodes: int, operations: int) -> None:
    per_node = [
        [
            (sources, names)
            for sources in combinations(range(target), 2)
            for names in product(range(operations), repeat=2)
        ]
        for target in range(2, 2 + nodes)
    ]
    assert len(set(product(*per_node))) == count_cells(nodes, operations)
