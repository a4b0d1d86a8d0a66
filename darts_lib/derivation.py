"""From alphas to a genotype, and back to one-hot alphas; random cells as the fair rival.

Source: DARTS paper, section 2.4; ties and the order of edges as in its code.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from darts_lib.genotype import Genotype, GenotypeError, Pair
from darts_lib.search_space import (
    INPUTS,
    KINDS,
    PRIMITIVES,
    edges,
    nodes_of,
    row_offset,
)


def derive(
    alphas: Mapping[str, Tensor],
    primitives: Sequence[str] = PRIMITIVES,
    max_skip: int | None = None,
) -> Genotype:
    """Turn alphas `{kind: (edges, primitives) logits}` into a genotype. Paper, section 2.4.

    The strength of an edge is the largest softmax weight among its operations other than `none`.
    Each node keeps its two strongest edges, stronger first, and on each the strongest operation
    other than `none`; ties go to the lower index. `none` cannot win, but it takes softmax mass, so
    an edge that prefers it is weak. `max_skip` keeps only that many skip connections in the normal
    cell, the strongest; the others give way to the next best choice. It is off by default, as
    in the paper.
    """
    normal = _strengths(alphas["normal"], primitives)
    pairs = {
        "normal": _choose_cell(_limit_skips(normal, primitives, max_skip), primitives),
        "reduce": _choose_cell(_strengths(alphas["reduce"], primitives), primitives),
    }
    concat = {kind: tuple(range(INPUTS, INPUTS + len(pairs[kind]) // 2)) for kind in KINDS}
    return Genotype(pairs["normal"], concat["normal"], pairs["reduce"], concat["reduce"])


def _strengths(logits: Tensor, primitives: Sequence[str]) -> Tensor:
    """Return softmax weights `(edges, primitives)` in float64 with `none` ruled out."""
    if logits.shape[1] != len(primitives):
        raise GenotypeError(f"alphas have {logits.shape[1]} columns for {len(primitives)} names.")
    strengths = torch.softmax(logits.detach().cpu().double(), dim=-1)
    if strengths.isnan().any():
        raise GenotypeError("alphas hold values that are not finite; the search diverged.")
    for column, name in enumerate(primitives):
        if name == "none":
            strengths[:, column] = -1.0
    return strengths


def _chosen(strengths: Tensor) -> list[tuple[int, int]]:
    """Return (row, column) of the kept edges, node by node, the stronger edge first."""
    chosen = []
    for target in range(INPUTS, INPUTS + nodes_of(len(strengths))):
        first = row_offset(target)
        best = [max(strengths[first + source].tolist()) for source in range(target)]
        # sorted() is stable: equal strengths keep the lower source first.
        for source in sorted(range(target), key=lambda source: -best[source])[:2]:
            row = strengths[first + source].tolist()
            chosen.append((first + source, row.index(max(row))))
    return chosen


def _choose_cell(strengths: Tensor, primitives: Sequence[str]) -> tuple[Pair, ...]:
    sources = [source for source, _ in edges(nodes_of(len(strengths)))]
    return tuple((primitives[column], sources[row]) for row, column in _chosen(strengths))


def _limit_skips(strengths: Tensor, primitives: Sequence[str], max_skip: int | None) -> Tensor:
    """Rule out the weakest chosen skip connection until at most `max_skip` are left."""
    if max_skip is None or "skip_connect" not in primitives:
        return strengths
    if max_skip < 0:
        raise GenotypeError(f"max_skip must be 0 or more, not {max_skip}.")
    skip = tuple(primitives).index("skip_connect")
    strengths = strengths.clone()
    while True:
        skips = [row for row, column in _chosen(strengths) if column == skip]
        if len(skips) <= max_skip:
            return strengths
        weakest = min(skips, key=lambda row: float(strengths[row, skip]))
        if float(strengths[weakest, skip]) < 0:  # ruled out before, and chosen for want of others
            raise GenotypeError(
                f"max_skip={max_skip} leaves an edge without an operation: {', '.join(primitives)} "
                "are all there are; add an operation, or allow more skip connections."
            )
        strengths[weakest, skip] = -1.0


def one_hot_alphas(genotype: Genotype, primitives: Sequence[str] = PRIMITIVES) -> dict[str, Tensor]:
    """Return logits whose softmax is exactly the genotype: 0 at the choice, -inf elsewhere.

    A kept edge chooses its operation, a dropped edge chooses `none`. With these alphas the
    supernet computes the derived cell with the weights it has: the discretisation gap.
    """
    if "none" not in primitives:
        raise GenotypeError(
            f"the primitives {', '.join(primitives)} lack 'none', which the edges choose that a "
            "cell leaves out; relax it with 'none' among them."
        )
    alphas = {}
    for kind in KINDS:
        pairs = genotype.pairs(kind)
        rows = edges(len(pairs) // 2)
        logits = torch.full((len(rows), len(primitives)), -torch.inf)
        names = {(source, i // 2 + INPUTS): name for i, (name, source) in enumerate(pairs)}
        if len(names) < len(pairs):
            raise GenotypeError(f"{kind}: a source taken twice has no place in the relaxed cell.")
        if odd := sorted(set(names.values()) - set(primitives)):
            raise GenotypeError(f"{kind}: {odd[0]!r} has no place in the relaxed cell.")
        for row, edge in enumerate(rows):
            logits[row, tuple(primitives).index(names.get(edge, "none"))] = 0.0
        alphas[kind] = logits
    return alphas


def random_genotype(seed: int, nodes: int = 4) -> Genotype:
    """Draw a cell pair uniformly: two distinct sources a node, an operation other than `none` each.

    The same constraints as `derive`, so a fair rival of a found cell. Source: paper, section 3.
    """
    draw = random.Random(seed)
    cells = [
        tuple(
            (draw.choice(PRIMITIVES[1:]), source)
            for target in range(INPUTS, INPUTS + nodes)
            for source in sorted(draw.sample(range(target), 2))
        )
        for _ in KINDS
    ]
    concat = tuple(range(INPUTS, INPUTS + nodes))
    return Genotype(cells[0], concat, cells[1], concat)


def genotypes_of(history: Sequence[Mapping[str, Any]]) -> list[Genotype]:
    """Return the genotype after each epoch of a search."""
    return [Genotype.from_dict(row["genotype"]) for row in history]
