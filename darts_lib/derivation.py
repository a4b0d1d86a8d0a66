"""From alphas to a genotype, and back to one-hot alphas; random cells as the fair rival.

Source: DARTS paper, section 2.4; ties and the order of edges as in its code.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from darts_lib.engine.refusals import one_line, show
from darts_lib.genotype import BaseGenotype, Genotype, GenotypeError, Pair
from darts_lib.relaxation import Mix, mix
from darts_lib.search_space import INPUTS, KEPT, KINDS, PRIMITIVES, edges, nodes_of, row_offset

RULED_OUT = -1.0
"""The strength of what cannot be chosen, below every weight."""


def derive(
    alphas: Mapping[str, Any],
    primitives: Sequence[str] = PRIMITIVES,
    max_skip: int | None = None,
    mix: Mix = mix,
) -> Genotype:
    """Turn alphas `{kind: (edges, primitives) logits}` into a genotype. Paper, section 2.4.

        strength of an edge  =  max over o != none of  mix(alpha)[o]

    Each node keeps its two strongest edges, stronger first, and on each the strongest operation
    other than `none`; ties go to the lower index. `none` cannot win, but it takes its share of the
    weights, so an edge that prefers it is weak; an operation whose logit is -inf cannot win either.
    The logits of a kind are a tensor, an array, lists, or a list of one of these for each node.
    `max_skip` keeps only that many skip connections in the normal cell, the strongest; the others
    give way to the next best choice. It is off by default, as in the paper. Raises GenotypeError
    for alphas of another width or that are not finite.
    """
    strengths = choice_strengths(alphas, primitives, mix)
    strengths["normal"] = _limit_skips(strengths["normal"], primitives, max_skip)
    return Genotype.joining_all(*(keep_edges(strengths[kind], primitives) for kind in KINDS))


def choice_strengths(
    alphas: Mapping[str, Any],
    primitives: Sequence[str],
    mix: Mix = mix,
    kinds: Sequence[str] = KINDS,
) -> dict[str, Tensor]:
    """Return each kind's weights `(edges, primitives)` in float64, -1 for what cannot be chosen.

    That is `none`, and whatever has the logit -inf. All alphas are mixed, also of other kinds.
    """
    logits = _tables(alphas, primitives, kinds)
    weights = mix(logits)
    if any(weights[kind].isnan().any() for kind in kinds):
        raise GenotypeError("alphas hold values that are not finite; the search diverged.")
    none = torch.tensor([name == "none" for name in primitives])
    out = {kind: none | (logits[kind] == -torch.inf) for kind in kinds}
    return {kind: weights[kind].masked_fill(out[kind], RULED_OUT) for kind in kinds}


def keep_edges(
    strengths: Tensor, primitives: Sequence[str], inputs: int = INPUTS, kept: int = KEPT
) -> tuple[Pair, ...]:
    """Return the (operation, source) pairs of a cell: of each node's edges the `kept` strongest."""
    rows = edges(nodes_of(len(strengths), inputs), inputs)
    chosen = strongest(strengths, inputs, kept)
    return tuple((primitives[column], rows[row][0]) for row, column in chosen)


def strongest(strengths: Tensor, inputs: int = INPUTS, kept: int = KEPT) -> list[tuple[int, int]]:
    """Return (row, column) of the kept edges, node by node, the stronger edge first."""
    chosen = []
    for target in range(inputs, inputs + nodes_of(len(strengths), inputs)):
        first = row_offset(target, inputs)
        rows = strengths[first : first + target].tolist()
        # sorted() is stable: equal strengths keep the lower source first.
        for source in sorted(range(target), key=lambda source: -max(rows[source]))[:kept]:
            chosen.append((first + source, rows[source].index(max(rows[source]))))
    return chosen


def margins(
    alphas: Mapping[str, Any], primitives: Sequence[str] = PRIMITIVES, mix: Mix = mix
) -> dict[str, list[tuple[float, str]]]:
    """Return by how much each choice of `derive` was made, the closest first, by kind of cell.

    A margin is a difference of weights, with what was chosen and what came next: on a kept edge the
    two strongest operations, at a node its second edge and its third, which was dropped.
    """
    by_kind = {}
    for kind, strengths in choice_strengths(alphas, primitives, mix).items():
        rows, found = edges(nodes_of(len(strengths))), []
        for row, column in strongest(strengths):
            values, order = strengths[row].sort(descending=True, stable=True)
            if len(values) > 1 and values[1] > RULED_OUT:
                change = f"{primitives[column]}, next {primitives[int(order[1])]}"
                margin = float(values[0] - values[1])
                found.append((margin, f"{rows[row][0]}→{rows[row][1]}: {change}"))
        ranked = strongest(strengths, kept=KEPT + 1)[INPUTS:]  # the first node drops no edge
        for last, dropped in zip(
            ranked[KEPT - 1 :: KEPT + 1], ranked[KEPT :: KEPT + 1], strict=True
        ):
            (source, target), (other, _) = rows[last[0]], rows[dropped[0]]
            change = f"{source}→{target}, next {other}→{target}"
            margin = float(strengths[last] - strengths[dropped])
            found.append((margin, f"into {target}: {change}"))
        by_kind[kind] = sorted(found)
    return by_kind


def _tables(
    alphas: Mapping[str, Any], primitives: Sequence[str], kinds: Sequence[str]
) -> dict[str, Tensor]:
    """Return alphas as tensors in float64; refuse tables of another shape, or none of a kind."""
    there = [*alphas] if isinstance(alphas, Mapping) else []
    if missing := [kind for kind in kinds if kind not in there]:
        wanted = f"name {' and '.join(kinds)}"
        raise GenotypeError(f"alphas lack {missing[0]!r}, they are {show(there)}; {wanted}.")
    logits = {kind: _logits(kind, alpha) for kind, alpha in alphas.items()}
    for kind in kinds:
        if logits[kind].ndim != 2:
            shape = tuple(logits[kind].shape)
            raise GenotypeError(f"alphas of {kind} have shape {shape}, not (edges, primitives).")
        if (columns := logits[kind].shape[1]) != len(primitives):
            raise GenotypeError(f"alphas have {columns} columns for {len(primitives)} names.")
    return logits


def _logits(kind: str, alpha: Any) -> Tensor:
    """Return alphas as one tensor in float64; the tables of nodes are joined."""
    try:
        if isinstance(alpha, list | tuple) or str(getattr(alpha, "dtype", "")) == "object":
            parts = [_logits(kind, part) for part in alpha]
            return torch.cat(parts) if parts and parts[0].ndim == 2 else torch.stack(parts)
        return torch.as_tensor(alpha).detach().cpu().double()
    except (TypeError, ValueError, RuntimeError) as error:
        wrong = f"alphas of {kind} are no table (edges, primitives) of numbers"
        raise GenotypeError(f"{wrong}: {one_line(error)}") from None


def _limit_skips(strengths: Tensor, primitives: Sequence[str], max_skip: int | None) -> Tensor:
    """Rule out the weakest chosen skip connection until at most `max_skip` are left."""
    if max_skip is None or "skip_connect" not in primitives:
        return strengths
    if max_skip < 0:
        raise GenotypeError(f"max_skip must be 0 or more, not {max_skip}.")
    skip = tuple(primitives).index("skip_connect")
    strengths = strengths.clone()
    while True:
        chosen = strongest(strengths)
        if any(float(strengths[place]) == RULED_OUT for place in chosen):  # for want of others
            raise GenotypeError(
                f"max_skip={max_skip} leaves an edge without an operation: {', '.join(primitives)} "
                "are all there are; add an operation, or allow more skip connections."
            )
        skips = [row for row, column in chosen if column == skip]
        if len(skips) <= max_skip:
            return strengths
        weakest = min(skips, key=lambda row: float(strengths[row, skip]))
        strengths[weakest, skip] = RULED_OUT


def one_hot_alphas(
    genotype: BaseGenotype, primitives: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """Return logits whose softmax is exactly the genotype: 0 at the choice, -inf elsewhere.

    A kept edge chooses its operation, a dropped edge chooses `none`. With these alphas the
    supernet computes the derived cell with the weights it has: the discretisation gap.
    `primitives` are the names of the columns, at first those of the genotype's kind of cell.
    """
    primitives = tuple(primitives or genotype.primitives)
    if "none" not in primitives:
        raise GenotypeError(
            f"the primitives {', '.join(primitives)} lack 'none', which the edges choose that a "
            "cell leaves out; relax it with 'none' among them."
        )
    alphas = {}
    for kind, pairs in genotype.cells().items():
        rows = edges(len(genotype.numbers(pairs)), genotype.inputs)
        targets = (node for node in genotype.numbers(pairs) for _ in range(genotype.kept))
        names = {(source, node): name for (name, source), node in zip(pairs, targets, strict=True)}
        if len(names) < len(pairs):
            raise GenotypeError(f"{kind}: a source taken twice has no place in the relaxed cell.")
        if odd := sorted(set(names.values()) - set(primitives)):
            raise GenotypeError(f"{kind}: {odd[0]!r} has no place in the relaxed cell.")
        alphas[kind] = torch.full((len(rows), len(primitives)), -torch.inf)
        for row, edge in enumerate(rows):
            alphas[kind][row, primitives.index(names.get(edge, "none"))] = 0.0
    return alphas


def random_genotype(seed: int, nodes: int = 4, primitives: Sequence[str] = PRIMITIVES) -> Genotype:
    """Draw a cell pair uniformly: two distinct sources a node, an operation other than `none` each.

    The same constraints as `derive`, so a fair rival of a found cell. Source: paper, section 3.
    """
    draw, names = random.Random(seed), [name for name in primitives if name != "none"]
    if not names:
        raise GenotypeError("there is no operation to draw besides 'none'; name another primitive.")

    def pairs() -> list[Pair]:
        targets = range(INPUTS, INPUTS + nodes)
        sources = (sorted(draw.sample(range(target), KEPT)) for target in targets)
        return [(draw.choice(names), source) for kept in sources for source in kept]

    return Genotype.joining_all(*(pairs() for _ in KINDS))


def genotypes_of(history: Sequence[Mapping[str, Any]]) -> list[Genotype]:
    """Return the genotype after each epoch of a search."""
    return [Genotype.from_dict(row["genotype"]) for row in history]
