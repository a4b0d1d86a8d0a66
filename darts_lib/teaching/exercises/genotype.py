"""Checks of chapter 04's exercises: the strength of an edge, one node's choice, three suspects."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from darts_lib.derivation import derive
from darts_lib.genotype import Pair
from darts_lib.search_space import PRIMITIVES, edges
from darts_lib.teaching.exercises.answers import close, compare, has_shape

Rule = Callable[[Tensor, Sequence[str]], Sequence[Pair]]
"""Chooses one node's two (operation, source) pairs from the alphas `(edges, primitives)`."""

NAMES = ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3")
ROWS = torch.tensor([[3.0, 0.5, 1.0, 0.0], [0.0, 2.0, 0.5, 2.5], [9.0, 9.5, 9.0, 9.0]]).double()
"""Three edges: one that `none` has won, one that decides little, one with a common offset."""


def edge_strength(strength: Callable[[Tensor, Sequence[str]], Tensor]) -> None:
    """Check `strength(alphas, primitives)`: the largest softmax weight besides `none`'s."""
    weights, answer = torch.softmax(ROWS, dim=-1), strength(ROWS, NAMES)
    assert has_shape(answer, (3,)), "return a tensor: one number for each edge."
    right = weights[:, 1:].amax(dim=-1)
    raw, down = ROWS[:, 1:].amax(dim=-1), torch.softmax(ROWS, dim=0)[:, 1:].amax(dim=-1)
    before = torch.softmax(ROWS[:, 1:], dim=-1).amax(dim=-1)
    mistakes = {
        raw: "these are raw alphas; a constant added to a row must change nothing, so take the "
        "softmax.",
        down: "the softmax runs over the edges; it belongs over the primitives of one edge, "
        "dim=-1.",
        weights[:, 1:].sum(dim=-1): "take the maximum, not the sum.",
        weights.amax(dim=-1): "none may not win: leave it out of the maximum.",
        before: "none must take its mass: rule it out after the softmax, not before.",
    }
    otherwise = f"the strengths should be {[round(x, 3) for x in right.tolist()]}."
    compare(answer, right, mistakes, otherwise)
    for order in ((1, 0, 2, 3), (3, 2, 1, 0), (1, 2, 3)):
        table, names = ROWS[:, list(order)], [NAMES[column] for column in order]
        right = _without_none(torch.softmax(table, dim=-1), names).amax(dim=-1)
        assert close(strength(table, names), right), (
            f"with the primitives {names} it is wrong: look for 'none' by its name, it may stand "
            "anywhere or be missing."
        )


def node_choice(choose: Rule) -> None:
    """Check `choose(alphas, primitives)`: the two pairs of one node, the stronger first."""
    zeros = torch.zeros(3, len(PRIMITIVES), dtype=torch.float64)
    answer, right = _plain(choose(zeros, PRIMITIVES)), _right(zeros)
    assert len(answer) == 2, f"a node keeps two edges, not {len(answer)}."
    assert all(name != "none" for name, _ in answer), "none may not be chosen."
    assert answer == right, (
        f"on a table of zeros all is equal and the lower index wins: {right}, not {answer}."
    )
    draw = torch.Generator().manual_seed(0)
    shapes = [(rows, len(PRIMITIVES)) for rows in (2, 3, 4, 5) * 8]
    tables = [3 * torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes]
    chosen = [_plain(choose(table, PRIMITIVES)) for table in tables]
    for name, rule in SUSPECTS.items():
        assert chosen != [_plain(rule(table, PRIMITIVES)) for table in tables], HINTS[name]
    for table, pairs in zip(tables, chosen, strict=True):
        right = _right(table)
        assert len({source for _, source in pairs}) == 2, (
            f"both pairs come from state {pairs[0][1]}: choose two edges first, then one operation "
            "on each."
        )
        assert pairs != right[::-1], "right edges, wrong order: the stronger edge comes first."
        assert pairs == right, f"on one of the tables you chose {pairs}, the rule chooses {right}."


def _plain(pairs: Sequence[Pair]) -> list[Pair]:
    return [(name, int(source)) for name, source in pairs]


def _right(table: Tensor) -> list[Pair]:
    """Derive a whole cell whose last node has these rows, and return that node's pairs."""
    missing = len(edges(len(table) - 1)) - len(table)
    cell = torch.cat([torch.zeros(missing, table.shape[1], dtype=table.dtype), table])
    return list(derive({"normal": cell, "reduce": cell}).normal[-2:])


def _without_none(values: Tensor, names: Sequence[str], fill: float = -torch.inf) -> Tensor:
    return values.masked_fill(torch.tensor([name == "none" for name in names]), fill)


def _best_of(scores: Tensor, values: Tensor, names: Sequence[str]) -> list[Pair]:
    """Return the largest value's name in each of the two rows with the highest scores."""
    rows = sorted(range(len(scores)), key=lambda row: -float(scores[row]))[:2]
    return [(names[int(values[row].argmax())], row) for row in rows]


def _by_sum(alphas: Tensor, names: Sequence[str]) -> list[Pair]:
    values = _without_none(torch.softmax(alphas, dim=-1), names, 0.0)
    return _best_of(values.sum(dim=-1), values, names)


def _by_raw(alphas: Tensor, names: Sequence[str]) -> list[Pair]:
    values = _without_none(alphas, names)
    return _best_of(values.amax(dim=-1), values, names)


def _by_pairs(alphas: Tensor, names: Sequence[str]) -> list[Pair]:
    values = _without_none(torch.softmax(alphas, dim=-1), names)
    best = sorted(range(values.numel()), key=lambda place: -float(values.flatten()[place]))[:2]
    return [(names[place % len(names)], place // len(names)) for place in best]


SUSPECTS: dict[str, Rule] = {"A": _by_sum, "B": _by_raw, "C": _by_pairs}
"""Three derivations of one node, each with its own mistake."""

HINTS = {
    "A": "you rank edges by the sum of their weights; take the largest one.",
    "B": "you rank raw alphas; rank softmax weights.",
    "C": "you rank single weights, and two of them may lie on one edge: choose two edges first, "
    "then one operation on each.",
}
MISTAKES = {"A": "sum", "B": "raw", "C": "pairs"}
REFUTED = {
    "raw": "adding 10 to one row does not change its choice, so it does not rank raw alphas.",
    "sum": "an edge with one large weight can lose to no edge with two middling ones, so it does "
    "not sum.",
    "pairs": "when one edge holds the two largest weights it still takes two sources, so it does "
    "not rank pairs.",
}


def suspects(answer: Mapping[str, str]) -> None:
    """Check the three verdicts: `raw`, `pairs` or `sum` for the suspects A, B and C."""
    assert isinstance(answer, Mapping), "give a dict: a verdict for each of A, B and C."
    assert set(answer) == set(MISTAKES), "give a verdict for each of A, B and C."
    for name, right in MISTAKES.items():
        verdict = answer[name]
        assert verdict in REFUTED, f"{name}: {verdict!r} is none of 'raw', 'pairs', 'sum'."
        assert verdict == right, f"{name}: {REFUTED[verdict]}"
