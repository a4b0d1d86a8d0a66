"""The derivation rule of both cells: oracles, the wrong rules people used, and properties."""

import math
from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor

from darts_lib.derivation import derive, margins, one_hot_alphas, random_genotype
from darts_lib.genotype import KNOWN_OPERATIONS, PUBLISHED, GenotypeError, Pair
from darts_lib.recurrent import genotype as recurrent
from darts_lib.recurrent.search_space import ACTIVATIONS
from darts_lib.recurrent.search_space import PRIMITIVES as WITH_NONE
from darts_lib.relaxation import Supernet, mix
from darts_lib.search_space import KINDS, PRIMITIVES, allowed, edges


def zeros(columns: int = 8) -> dict[str, Tensor]:
    return {kind: torch.zeros(14, columns) for kind in KINDS}


def normal_of(rows: Tensor, names: Sequence[str] = PRIMITIVES) -> tuple[Pair, ...]:
    return derive({"normal": rows, "reduce": rows}, names).normal


def recurrent_of(rows: Tensor) -> tuple[Pair, ...]:
    return recurrent.derive({"recurrent": rows}).recurrent


def by_hand(alphas: Tensor, names: Sequence[str], kept: int) -> tuple[Pair, ...]:
    """Derive in plain loops: the second route. A node keeps as many edges as a cell has inputs."""
    weights = (alphas.double().exp() / alphas.double().exp().sum(dim=1, keepdim=True)).tolist()
    pairs: list[Pair] = []
    target = kept
    while weights:
        best = []
        for source, row in enumerate(weights[:target]):
            value, first = max((w, -i) for i, w in enumerate(row) if names[i] != "none")
            best.append((value, -source, names[-first]))
        pairs += [(name, -source) for _, source, name in sorted(best, reverse=True)[:kept]]
        weights, target = weights[target:], target + 1
    return tuple(pairs)


def test_derive_agrees_with_plain_loops_whatever_is_added_to_a_row() -> None:
    """And wherever `none` is in the list of operations, or nowhere."""
    generator = torch.Generator().manual_seed(0)
    lists = (PRIMITIVES, PRIMITIVES[1:], (*PRIMITIVES[1:4], "none", *PRIMITIVES[4:]))
    for number in range(30):
        nodes, scale = 1 + number % 6, number % 4  # equal alphas too: everything is a tie
        for names, inputs in (*((names, 2) for names in lists), (WITH_NONE, 1)):
            shape = (len(edges(nodes, inputs)), len(names))
            rows = scale * torch.randn(shape, generator=generator).double()
            for same in (rows, rows + 3.0 * torch.arange(len(rows))[:, None]):
                pairs = recurrent_of(same) if inputs == 1 else normal_of(same, names)
                assert pairs == by_hand(rows, names, inputs)


# Logits of node 3, whose edges are the rows 2 to 4; all others are 0.
@pytest.mark.parametrize(("logits", "pairs"), [
    pytest.param({}, ("max_pool_3x3 0", "max_pool_3x3 1"), id="ties go to the first"),
    pytest.param({(2, 5): 0.5, (2, 0): 3, (3, 4): 1, (4, 0): 9}, ("sep_conv_3x3 1",
        "sep_conv_5x5 0"), id="a large none weakens its edge, and the stronger edge comes first"),
    pytest.param({(2, 4): 4, (3, 3): 11, (4, 1): 5} | {(3, c): 10 for c in (0, 1, 2, 4, 5, 6, 7)},
        ("max_pool_3x3 2", "sep_conv_3x3 0"), id="ranked by softmax weight, not by raw alpha"),
    pytest.param({(2, 4): 2, (3, 4): 1.9, (3, 5): 1.9, (4, 4): 1.9, (4, 5): 1.9},
        ("sep_conv_3x3 0", "sep_conv_3x3 1"), id="as strong as its best operation, not their sum"),
    pytest.param({(2, 4): 9, (2, 5): 8.9}, ("sep_conv_3x3 0", "max_pool_3x3 1"),
        id="two distinct sources, even if one edge has the two best operations"),
])  # fmt: skip
def test_known_answers(logits: dict[tuple[int, int], float], pairs: tuple[str, str]) -> None:
    rows = torch.zeros(5, 8)
    for place, value in logits.items():
        rows[place] = value
    assert tuple(f"{name} {source}" for name, source in normal_of(rows)[2:]) == pairs


def test_weights_are_those_of_mix_in_float64() -> None:
    types = set()

    def last_first(alphas: Mapping[str, Tensor], draw: object = None) -> dict[str, Tensor]:
        types.update(alpha.dtype for alpha in alphas.values())
        return {kind: torch.softmax(alpha.flip(-1), dim=-1) for kind, alpha in alphas.items()}

    rows = torch.randn(36, 8, generator=torch.Generator().manual_seed(0))
    normal, five = rows[:14], rows[:, :5]
    alphas = {"normal": normal, "reduce": normal, "betas": torch.zeros(14)}  # a method's own
    assert derive(alphas, mix=last_first).normal == normal_of(normal.flip(1))
    assert recurrent.derive({"recurrent": five}, last_first).recurrent == recurrent_of(five.flip(1))
    assert types == {torch.float64}
    assert derive(zeros()).normal_concat == derive(zeros()).reduce_concat == (2, 3, 4, 5)
    assert recurrent.derive({"recurrent": torch.zeros(36, 5)}).concat == tuple(range(1, 9))


def test_what_an_edge_may_not_have_is_never_chosen() -> None:
    names = ("skip_connect", "none", "sep_conv_3x3", "sep_conv_5x5")
    skip, conv = ["none", "skip_connect"], ["none", "sep_conv_5x5"]
    mask = allowed({"normal": [skip, conv, conv, ["none"], skip]}, names, nodes=2)["normal"]
    node2 = {("skip_connect", 0), ("sep_conv_5x5", 1)}
    node3 = {("sep_conv_5x5", 0), ("skip_connect", 2)}
    for seed in range(10):
        free = 3 * torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))
        alphas = {"normal": free.masked_fill(~mask, -torch.inf), "reduce": free}
        cell = derive(alphas, names)
        assert (set(cell.normal[:2]), set(cell.normal[2:])) == (node2, node3)
        assert cell.reduce == normal_of(free, names)
        with pytest.raises(GenotypeError, match="max_skip=0 leaves an edge without an operation"):
            derive(alphas, names, max_skip=0)


def test_skip_limit_keeps_the_strongest_and_refills_from_the_rest() -> None:
    skip = PRIMITIVES.index("skip_connect")
    torch.manual_seed(0)
    alphas = {kind: 0.1 * torch.randn(14, 8) for kind in KINDS}
    alphas["normal"][:, skip] = -1.0
    for row, strength in ((0, 5.0), (1, 4.0), (2, 3.0), (5, 6.0), (9, 2.0)):
        alphas["normal"][row, skip] = strength
    free, limited = derive(alphas), derive(alphas, max_skip=2)
    kept = [(i // 2 + 2, s) for i, (n, s) in enumerate(limited.normal) if n == "skip_connect"]
    assert sorted(kept) == [(2, 0), (4, 0)]
    assert limited.reduce == free.reduce
    assert [derive(alphas, max_skip=most).skips() for most in (0, 2, 8)] == [0, 2, 5]
    assert derive(alphas, max_skip=8) == free


def test_one_hot_alphas_make_the_supernet_compute_the_derived_cell() -> None:
    """A change of weights on a dropped edge or a loser then changes nothing."""
    torch.manual_seed(1)
    genotype = random_genotype(5)
    alphas = one_hot_alphas(genotype)
    assert all(torch.equal(a.softmax(1).sum(1), torch.ones(14)) for a in alphas.values())
    for kind, pairs in derive(alphas).cells().items():
        for first in range(0, 8, 2):
            assert sorted(pairs[first : first + 2]) == sorted(genotype.pairs(kind)[first:][:2])
    net, x = Supernet(4, 3), torch.randn(4, 3, 8, 8)
    before = net(x, mix(alphas))
    chosen = {(s, i // 2 + 2): n for i, (n, s) in enumerate(genotype.normal)}
    for edge, mixed in zip(edges(4), net.cells[0].edges, strict=True):
        for name, operation in zip(PRIMITIVES, mixed.operations, strict=True):
            for parameter in operation.parameters() if chosen.get(edge) != name else ():
                torch.nn.init.normal_(parameter)
    assert torch.equal(net(x, mix(alphas)), before)
    for cell in recurrent.PUBLISHED.values():
        assert recurrent.derive(one_hot_alphas(cell)).recurrent == cell.recurrent


def test_random_cells_are_valid_seeded_and_spread() -> None:
    cells = [random_genotype(seed) for seed in range(300)]
    assert len({str(c) for c in cells}) == 300
    names = [name for cell in cells for name, _ in cell.normal]
    for name in KNOWN_OPERATIONS[:7]:
        expected = len(names) / 7
        assert abs(names.count(name) - expected) < 5 * math.sqrt(expected)
    drawn = {recurrent.random_genotype(seed, 3).recurrent[2] for seed in range(200)}
    assert drawn == {(name, source) for name in ACTIVATIONS for source in range(3)}
    # At a seed they stay what they always were.
    assert random_genotype(0).normal[:2] == (("max_pool_3x3", 0), ("skip_connect", 1))
    assert recurrent.random_genotype(0, 2).recurrent == (("identity", 0), ("tanh", 1))
    cells = [random_genotype(seed, 2, ("dil_conv_3x3", "none")) for seed in range(3)]
    assert {name for cell in cells for name, _ in cell.normal + cell.reduce} == {"dil_conv_3x3"}


def test_errors() -> None:
    nowhere, cell = torch.full((14, 8), torch.nan), PUBLISHED["MMRAZOR_9732"]
    few = ["none", "sep_conv_3x3", "skip_connect"]
    for match, call in {
        "8 columns for 3 names": lambda: derive(zeros(), PRIMITIVES[:3]),
        "4 columns for 5 names": lambda: recurrent_of(torch.zeros(36, 4)),
        "not finite; the search diverged": lambda: derive(zeros() | {"normal": nowhere}),
        "hold values that are not finite": lambda: recurrent_of(nowhere[:10, :5]),
        "max_skip must be 0 or more": lambda: derive(zeros(), max_skip=-1),
        "leaves an edge without": lambda: derive(zeros(2), ("skip_connect", "none"), max_skip=0),
        "taken twice": lambda: one_hot_alphas(PUBLISHED["NASNet"]),
        "normal: 'sep_conv_5x5' has no place": lambda: one_hot_alphas(cell, few),
        "lack 'none'": lambda: one_hot_alphas(cell, PRIMITIVES[1:]),
        "no operation to draw besides 'none'": lambda: random_genotype(0, primitives=["none"]),
    }.items():
        with pytest.raises(GenotypeError, match=match):
            call()


def test_margins_say_how_near_another_choice_was() -> None:
    names = ("none", "skip_connect", "sep_conv_3x3")
    shares = [[0.1, 0.3, 0.6], [0.2, 0.5, 0.3], [0.1, 0.5, 0.4], [0.65, 0.1, 0.25], [0.1, 0.7, 0.2]]
    alphas = {kind: torch.tensor(shares, dtype=torch.float64).log() for kind in KINDS}
    found = margins(alphas, names)["normal"]
    assert [change for _, change in found] == [
        "0→3: skip_connect, next sep_conv_3x3",
        "1→2: skip_connect, next sep_conv_3x3",
        "into 3: 0→3, next 1→3",
        "0→2: sep_conv_3x3, next skip_connect",
        "2→3: skip_connect, next sep_conv_3x3",
    ]
    expected = [0.1, 0.2, 0.25, 0.3, 0.5]
    assert [margin for margin, _ in found] == pytest.approx(expected)
    assert derive(alphas, names).normal[2:] == (("skip_connect", 2), ("skip_connect", 0))
