"""The derivation rule: oracles, the wrong rules people used, and properties."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from darts_lib.derivation import derive, one_hot_alphas, random_genotype
from darts_lib.genotype import KNOWN_OPERATIONS, PUBLISHED, GenotypeError
from darts_lib.relaxation import Supernet
from darts_lib.search_space import PRIMITIVES, edges

SKIP = PRIMITIVES.index("skip_connect")


def zeros(nodes: int = 4) -> dict[str, Tensor]:
    return {kind: torch.zeros(len(edges(nodes)), 8) for kind in ("normal", "reduce")}


def test_equal_alphas_take_the_first_of_everything() -> None:
    genotype = derive(zeros())
    assert genotype.normal == genotype.reduce == (("max_pool_3x3", 0), ("max_pool_3x3", 1)) * 4
    assert genotype.normal_concat == (2, 3, 4, 5)


def test_a_large_none_weakens_its_edge_and_the_stronger_edge_comes_first() -> None:
    alphas = zeros()
    alphas["normal"][0, 5], alphas["normal"][0, 0], alphas["normal"][1, 4] = 0.5, 3.0, 1.0
    assert derive(alphas).normal[:2] == (("sep_conv_3x3", 1), ("sep_conv_5x5", 0))


def test_edges_are_ranked_by_softmax_weight_not_by_raw_alpha() -> None:
    alphas = zeros(2)
    alphas["normal"][2:] = torch.tensor(
        [
            [1, 1, 1, 1, 5, 1, 1, 1],
            [10, 10, 10, 11, 10, 10, 10, 10],
            [10, 15, 10, 10, 10, 10, 10, 10],
        ]
    )
    assert {source for _, source in derive(alphas).normal[2:]} == {0, 2}


def test_an_edge_is_as_strong_as_its_best_operation_not_as_their_sum() -> None:
    names = ("none", "sep_conv_3x3", "max_pool_3x3")
    rows = [[0.4, 0.5, 0.1], [0.3, 0.35, 0.35], [0.8, 0.1, 0.1]]
    logits = torch.tensor([rows[2], rows[2], rows[0], rows[1], rows[1]]).log()
    genotype = derive({"normal": logits, "reduce": logits}, names)
    assert genotype.normal[2] == ("sep_conv_3x3", 0)


def test_two_distinct_sources_even_if_one_edge_has_the_two_best_operations() -> None:
    alphas = zeros(2)
    alphas["normal"][2, 4], alphas["normal"][2, 5] = 9.0, 8.9
    sources = [source for _, source in derive(alphas).normal[2:]]
    assert sorted(sources) == [0, 1]


@given(seed=st.integers(0, 10**6), nodes=st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_properties_of_any_derivation(seed: int, nodes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    alphas = {
        kind: 2 * torch.randn(len(edges(nodes)), 8, generator=generator)
        for kind in ("normal", "reduce")
    }
    genotype = derive(alphas)
    for kind in ("normal", "reduce"):
        pairs = genotype.pairs(kind)
        for node in range(nodes):
            (first, a), (second, b) = pairs[2 * node : 2 * node + 2]
            assert a != b
            assert max(a, b) < node + 2
            assert "none" not in (first, second)
    shifted = {
        kind: value + 3.0 * torch.arange(len(value))[:, None] for kind, value in alphas.items()
    }
    assert derive(shifted) == genotype


@pytest.mark.parametrize("place", [0, 3, 7, None])
def test_none_anywhere_or_nowhere_in_the_list(place: int | None) -> None:
    names = list(PRIMITIVES[1:])
    if place is not None:
        names.insert(place, "none")
    logits = torch.zeros(14, len(names))
    if place is not None:
        logits[:, place] = 9.0
    genotype = derive({"normal": logits, "reduce": logits}, names)
    assert genotype.normal[0] == ("max_pool_3x3", 0)


def test_skip_limit_keeps_the_strongest_and_refills_from_the_rest() -> None:
    torch.manual_seed(0)
    alphas = {kind: 0.1 * torch.randn(14, 8) for kind in ("normal", "reduce")}
    alphas["normal"][:, SKIP] = -1.0
    for row, strength in ((0, 5.0), (1, 4.0), (2, 3.0), (5, 6.0), (9, 2.0)):
        alphas["normal"][row, SKIP] = strength
    free, limited = derive(alphas), derive(alphas, max_skip=2)
    assert free.skips() == 5
    assert limited.skips() == 2
    kept = [(i // 2 + 2, s) for i, (n, s) in enumerate(limited.normal) if n == "skip_connect"]
    assert sorted(kept) == [(2, 0), (4, 0)]
    assert limited.reduce == free.reduce
    assert derive(alphas, max_skip=8) == free
    assert derive(alphas, max_skip=0).skips() == 0


def test_where_nothing_but_a_skip_connection_is_left_the_limit_is_refused() -> None:
    """It was looked for without end."""
    alphas = {kind: torch.zeros(14, 2) for kind in ("normal", "reduce")}
    with pytest.raises(GenotypeError, match="max_skip=0 leaves an edge without an operation"):
        derive(alphas, ("skip_connect", "none"), max_skip=0)


def test_one_hot_alphas_need_none_for_the_edges_left_out() -> None:
    with pytest.raises(GenotypeError, match="lack 'none'"):
        one_hot_alphas(random_genotype(0), PRIMITIVES[1:])


def test_one_hot_alphas_make_the_supernet_compute_the_derived_cell() -> None:
    """With one-hot alphas a change of weights on a dropped edge or a loser changes nothing."""
    torch.manual_seed(1)
    genotype = random_genotype(5)
    alphas = one_hot_alphas(genotype)
    assert all(torch.equal(a.softmax(1).sum(1), torch.ones(14)) for a in alphas.values())
    assert _as_sets(derive(alphas)) == _as_sets(genotype)
    net, x = Supernet(4, 3), torch.randn(4, 3, 8, 8)
    before = net(x, alphas)
    chosen = {(s, i // 2 + 2): n for i, (n, s) in enumerate(genotype.normal)}
    for row, edge in enumerate(edges(4)):
        for column, operation in enumerate(net.cells[0].edges[row].operations):
            if chosen.get(edge) != PRIMITIVES[column]:
                for parameter in operation.parameters():
                    torch.nn.init.normal_(parameter)
    assert torch.equal(net(x, alphas), before)


def _as_sets(genotype: object) -> list[set[tuple[str, int]]]:
    pairs = genotype.normal + genotype.reduce  # type: ignore[attr-defined]
    return [set(pairs[i : i + 2]) for i in range(0, len(pairs), 2)]


def test_random_cells_are_valid_seeded_and_spread() -> None:
    cells = [random_genotype(seed) for seed in range(300)]
    assert random_genotype(7) == random_genotype(7)
    assert len({str(c) for c in cells}) == 300
    names = [name for cell in cells for name, _ in cell.normal]
    for name in KNOWN_OPERATIONS[:7]:
        expected = len(names) / 7
        assert abs(names.count(name) - expected) < 5 * math.sqrt(expected)


def test_errors() -> None:
    alphas = zeros()
    with pytest.raises(GenotypeError, match="8 columns for 3 names"):
        derive(alphas, PRIMITIVES[:3])
    alphas["normal"][0, 0] = math.nan
    with pytest.raises(GenotypeError, match="not finite"):
        derive(alphas)
    with pytest.raises(GenotypeError, match="max_skip must be 0 or more"):
        derive(zeros(), max_skip=-1)
    with pytest.raises(GenotypeError, match="taken twice"):
        one_hot_alphas(PUBLISHED["NASNet"])
