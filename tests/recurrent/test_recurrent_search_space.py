"""The recurrent space and its genotypes: edges, counts, text both ways, the exact parse rule."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from darts_lib.genotype import GenotypeError
from darts_lib.recurrent.genotype import (
    PUBLISHED,
    RecurrentGenotype,
    derive,
    find_genotype,
    one_hot_alphas,
    random_genotype,
)
from darts_lib.recurrent.search_space import (
    ACTIVATIONS,
    PRIMITIVES,
    count_cells,
    edges,
    nodes_of,
    row_offset,
)

V2 = (
    "Genotype(recurrent=[('sigmoid', 0), ('relu', 1), ('relu', 1), ('identity', 1), ('tanh', 2), "
    "('sigmoid', 5), ('tanh', 3), ('relu', 5)], concat=range(1, 9))"
)


def zeros(nodes: int = 8) -> Tensor:
    return torch.zeros(len(edges(nodes)), len(PRIMITIVES))


def test_thirty_six_edges_in_the_order_of_alphas_rows() -> None:
    assert len(edges()) == 36
    assert edges(3) == ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
    for row, (source, target) in enumerate(edges()):
        assert row == row_offset(target) + source
    assert [row_offset(target) for target in range(1, 5)] == [0, 1, 3, 6]


def test_nodes_of_is_the_inverse_of_the_number_of_edges() -> None:
    assert [nodes_of(len(edges(n))) for n in (1, 2, 8, 11)] == [1, 2, 8, 11]
    with pytest.raises(
        ValueError, match=r"no cell has 35 edges; the nearest sizes have \[28, 36\]"
    ):
        nodes_of(35)
    with pytest.raises(ValueError, match="nodes must be at least 1, not 0"):
        edges(0)


def test_the_size_of_the_space_against_a_plain_count() -> None:
    small = sum(1 for a in range(4) for b in range(4) for _ in range(2))
    assert count_cells(2) == small
    assert count_cells() == 40_320 * 4**8


# Genotypes as text and JSON ----------------------------------------------------------------------


def test_the_published_cells_are_read_from_the_originals_text() -> None:
    assert RecurrentGenotype.from_text(V2) == PUBLISHED["DARTS_V2"]
    assert str(PUBLISHED["DARTS_V2"]) == V2
    as_list = V2.replace("range(1, 9)", "[1, 2, 3, 4, 5, 6, 7, 8]")
    assert RecurrentGenotype.from_text(as_list) == PUBLISHED["DARTS_V2"]
    enas = PUBLISHED["ENAS"]
    assert (enas.nodes, enas.concat) == (11, (2, 5, 6, 9, 10, 11))
    assert PUBLISHED["DARTS_V1"].recurrent[5] == ("identity", 1)


@pytest.mark.parametrize("name", PUBLISHED)
def test_text_and_json_go_both_ways(name: str) -> None:
    cell = PUBLISHED[name]
    assert RecurrentGenotype.from_text(str(cell)) == cell
    assert RecurrentGenotype.from_dict(json.loads(json.dumps(cell.to_dict()))) == cell


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Genotype(recurrent=[('tnh', 0)], concat=[1])", "node 1: unknown activation 'tnh'; did"),
        ("Genotype(recurrent=[('none', 0)], concat=[1])", "'none' competes in the search"),
        ("Genotype(recurrent=[('tanh', 1)], concat=[1])", "node 1: source 1 is not an earlier"),
        ("Genotype(recurrent=[('tanh', 0)], concat=[2])", "concat=[2] must list distinct nodes"),
        ("Genotype(recurrent=[('tanh', 0)], concat=[0])", "from 1 to 1"),
        ("Genotype(recurrent=[('tanh', 0)], concat=[])", "concat=[] must"),
        ("Genotype(recurrent=[], concat=[1])", "at least one node"),
        ("Genotype(recurrent=[('tanh', '0')], concat=[1])", "is not a pair"),
        ("Genotype(recurrent=[('tanh', 0)], concat=[True])", "True is not a state number"),
        ("Genotype(recurrent='tanh', concat=[1])", "recurrent must be a list"),
        ("Genotype(recurent=[], concat=[1])", "missing or unknown: ['recurent', 'recurrent']"),
        ("Genotype(recurrent=[('tanh', 0)], concat=print(1))", "'concat'"),
    ],
)
def test_a_wrong_genotype_is_named_with_the_way_out(text: str, words: str) -> None:
    with pytest.raises(GenotypeError) as caught:
        RecurrentGenotype.from_text(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_cell_is_found_by_name_file_folder_and_text(tmp_path: Path) -> None:
    v1 = PUBLISHED["DARTS_V1"]
    (tmp_path / "genotype.json").write_text(json.dumps(v1.to_dict()))
    for name in ("DARTS_V1", str(tmp_path), str(tmp_path / "genotype.json"), str(v1)):
        assert find_genotype(name) == v1
    assert find_genotype("random", 3) == random_genotype(3) != random_genotype(4)
    with pytest.raises(GenotypeError, match="did you mean 'DARTS_V1'"):
        find_genotype("darts_v1x")


def test_random_cells_reach_every_source_and_activation() -> None:
    cells = [random_genotype(seed, 3) for seed in range(200)]
    assert {cell.recurrent[2] for cell in cells} == {(a, s) for a in ACTIVATIONS for s in range(3)}


# The parse rule --------------------------------------------------------------------------------


def by_hand(alphas: Tensor) -> list[tuple[str, int]]:
    """Derive in plain loops: the second route."""
    weights = alphas.double().exp() / alphas.double().exp().sum(dim=1, keepdim=True)
    pairs, row = [], 0
    for target in range(1, nodes_of(len(alphas)) + 1):
        best = (-1.0, "", 0)
        for source in range(target):
            for column, name in enumerate(PRIMITIVES):
                if name != "none" and float(weights[row, column]) > best[0]:
                    best = (float(weights[row, column]), name, source)
            row += 1
        pairs.append(best[1:])
    return pairs


def test_ties_go_to_the_lower_source_and_the_earlier_activation() -> None:
    cell = derive({"recurrent": zeros()})
    assert cell.recurrent == (("tanh", 0),) * 8
    assert cell.concat == tuple(range(1, 9))


def test_none_cannot_win_but_weakens_its_edge() -> None:
    alphas = zeros(2)
    alphas[1] = torch.tensor([3.0, 0.0, 0.5, 0.0, 0.0])  # source 0 of node 2: none is strong
    alphas[2] = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.3])  # source 1
    assert derive({"recurrent": alphas}).recurrent[1] == ("identity", 1)
    logit_rule = alphas[1:, 1:].max(dim=1).values.argmax()
    assert int(logit_rule) == 0, "a rule that reads logits in place of weights is told apart"


def test_derive_agrees_with_plain_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        alphas = torch.randn(36, 5, generator=generator)
        assert list(derive({"recurrent": alphas}).recurrent) == by_hand(alphas)


@pytest.mark.parametrize("name", PUBLISHED)
def test_one_hot_alphas_give_their_cell_back(name: str) -> None:
    assert derive(one_hot_alphas(PUBLISHED[name])).recurrent == PUBLISHED[name].recurrent


def test_alphas_that_cannot_be_read_are_refused() -> None:
    with pytest.raises(GenotypeError, match="4 columns for 5 names"):
        derive({"recurrent": torch.zeros(36, 4)})
    with pytest.raises(GenotypeError, match="not finite"):
        derive({"recurrent": torch.full((36, 5), torch.nan)})
