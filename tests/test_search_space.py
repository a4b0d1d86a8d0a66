"""The graph and the macro layout against the published figures; counts against enumeration."""

from itertools import combinations, product
from typing import Any

import pytest
import torch
from fuzz_tools import one_line

from darts_lib import search_space as space
from darts_lib.recurrent import search_space as recurrent
from darts_lib.search_space import KINDS, PRIMITIVES, allowed, edges


def test_primitives_are_in_the_order_of_alphas_columns() -> None:
    assert (PRIMITIVES[0], PRIMITIVES[3], len(PRIMITIVES)) == ("none", "skip_connect", 8)
    assert not set(PRIMITIVES) & set(space.EXTRA_PRIMITIVES)
    assert ("none", *recurrent.ACTIVATIONS) == recurrent.PRIMITIVES
    assert space.count_cells() == 1_037_664_180
    assert space.count_cells(8, 4, inputs=1, kept=1) == 40_320 * 4**8 == 2_642_411_520
    assert space.count_relaxed_cells() == 8**14 == 4_398_046_511_104


@pytest.mark.parametrize(("inputs", "two_nodes", "counts", "offsets"), [
    (2, ((0, 2), (1, 2), (0, 3), (1, 3), (2, 3)), {4: 14}, [0, 2, 5, 9]),
    (1, ((0, 1), (0, 2), (1, 2)), {8: 36}, [0, 1, 3, 6]),
])  # fmt: skip
def test_edges_and_row_offsets(inputs: int, two_nodes: Any, counts: Any, offsets: Any) -> None:
    assert edges(2, inputs) == two_nodes
    assert {nodes: len(edges(nodes, inputs)) for nodes in counts} == counts
    assert [space.row_offset(inputs + node, inputs) for node in range(4)] == offsets
    for row, (source, target) in enumerate(edges(7, inputs)):
        assert row == space.row_offset(target, inputs) + source
    for nodes in range(1, 12):
        assert space.nodes_of(len(edges(nodes, inputs)), inputs) == nodes


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no cell has 13 edges.*\[9, 14\]"):
        space.nodes_of(13)
    with pytest.raises(ValueError, match=r"no cell has 35 edges; .* \[28, 36\]"):
        space.nodes_of(35, inputs=1)
    with pytest.raises(ValueError, match="nodes must be at least 1, not 0"):
        edges(0)
    with pytest.raises(ValueError, match="layers must be at least 1"):
        space.reductions(0)


def test_reductions_and_the_channels_of_the_cifar_search_network() -> None:
    expected = {20: (6, 13), 14: (4, 9), 8: (2, 5), 6: (2, 4), 5: (1, 3), 1: (0,)}
    assert {layers: space.reductions(layers) for layers in expected} == expected
    plans = space.plan_cells(16, 8, {"normal": 4, "reduce": 4}, space.Stem((48, 48)))
    assert [plan.channels for plan in plans] == [16, 16, 32, 32, 32, 64, 64, 64]
    assert [plan.previous_reduces for plan in plans].count(True) == 2
    assert (plans[0].channels_before_previous, plans[0].channels_previous) == (48, 48)
    assert (plans[3].channels_before_previous, plans[3].channels_previous) == (64, 128)


def test_count_by_enumeration() -> None:
    for given in ((1, 7, 2, 2), (2, 3, 2, 2), (3, 2, 2, 2), (3, 4, 1, 1), (2, 2, 3, 2)):
        nodes, operations, inputs, kept = given
        choices = list(product(range(operations), repeat=kept))
        per_node = [
            list(product(combinations(range(target), kept), choices))
            for target in range(inputs, inputs + nodes)
        ]
        assert len(set(product(*per_node))) == space.count_cells(*given)


SKIP, CONV, NONE = ["skip_connect"], ["none", "sep_conv_3x3"], ["none"]


def test_everything_is_allowed_unless_an_edge_says_less() -> None:
    everywhere = allowed({}, nodes=2)
    assert list(everywhere) == list(KINDS)
    assert all(torch.equal(mask, torch.ones(5, 8).bool()) for mask in everywhere.values())
    names = ("none", "skip_connect", "sep_conv_3x3")
    some = allowed({"reduce": [SKIP, CONV, ["none"], SKIP, [*CONV, *SKIP]]}, names, 2)
    assert bool(some["normal"].all())
    assert some["reduce"].int().tolist() == [[0, 1, 0], [1, 0, 1], [1, 0, 0], [0, 1, 0], [1, 1, 1]]


def test_what_no_cell_could_be_derived_from_is_refused() -> None:
    for kind, given, words in (
        ("norm", [SKIP] * 5, "unknown kind of cell 'norm'; did you mean 'normal'?"),
        ("normal", [SKIP] * 4, "['normal'] lists 4 edges, but a cell of 2 nodes has 5; list"),
        ("normal", [*[SKIP] * 3, ["skip_conect"], SKIP], "edge 1 to 3: unknown primitive"),
        ("reduce", [*[SKIP] * 4, []], "['reduce'], edge 2 to 3: no name; write ['none']"),
        ("reduce", [NONE, *[SKIP] * 4], "node 2 keeps 2 edges, but only 1 of its edges may"),
        ("normal", [*[SKIP] * 3, NONE, NONE], "node 3 keeps 2 edges, but only 1"),
    ):
        with pytest.raises(ValueError, match="edge_primitives") as caught:
            allowed({kind: given}, nodes=2)
        one_line(caught.value, words)
