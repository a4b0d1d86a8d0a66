"""What MMRazor calls the weights of a derived network, from the names that we and the original use.

MMRazor names an operation by its edge, `normal_n3_p1` (node 3 hears state 1), where the original
counts operations, so the genotype is needed. Two layouts are known: that of its main branch, and
that of version 0.1.0, known from its source only.
"""

import re
from collections.abc import Iterable

from darts_lib.genotype import Genotype
from darts_lib.search_space import INPUTS, reductions

PREFIXES = ("architecture.model.", "architecture.", "module.")
"""What checkpoints put before all names."""

WHOLE = (
    (r"stem\.(.+)", r"backbone.stem.\1"),
    (r"classifier\.(.+)", r"head.fc.\1"),
    (r"auxiliary_head\.classifier\.(.+)", r"head.aux_linear.\1"),
    # The spelling is that of the source.
    (r"auxiliary_head\.features\.(.+)", r"backbone.auxliary_module.net.\1"),
    (r"(cells\.\d+)\.preprocess(\d)\.op\.(.+)", r"backbone.\1.preproc\2.net.\3"),
    (r"(cells\.\d+)\.preprocess(\d)\.conv_(\d)\.(.+)", r"backbone.\1.preproc\2.conv\3.\4"),
    (r"(cells\.\d+)\.preprocess(\d)\.bn\.(.+)", r"backbone.\1.preproc\2.bn.\3"),
)
INSIDE = (
    (r"op\.([123])\.(.+)", r"conv1.\1.\2"),
    (r"op\.5\.(.+)", r"conv2.1.\1"),
    (r"op\.6\.(.+)", r"conv2.2.\1"),
    (r"op\.7\.(.+)", r"conv2.3.\1"),
    (r"conv_(\d)\.(.+)", r"conv\1.\2"),
    (r"bn\.(.+)", r"bn.\1"),
    (r"1\.(.+)", r"bn.\1"),  # the normalisation after a pool
)
OPERATION = re.compile(r"cells\.(\d+)\._ops\.(\d+)\.(.+)")


def mmrazor_names(names: Iterable[str], genotype: Genotype, layers: int) -> dict[str, str]:
    """Return MMRazor's name (main branch, without prefix) for each of our names."""
    reducing = reductions(layers)
    return {name: _translated(name, genotype, reducing) for name in names}


def _translated(name: str, genotype: Genotype, reducing: Iterable[int]) -> str:
    found = OPERATION.fullmatch(name)
    if not found:
        return _first_match(name, WHOLE)
    cell, position, rest = int(found[1]), int(found[2]), found[3]
    kind = "reduce" if cell in reducing else "normal"
    operation, source = genotype.pairs(kind)[position]
    node = position // 2
    edge = f"{kind}_n{node + INPUTS}_p{source}"
    inside = _first_match(rest, INSIDE)
    return (
        f"backbone.cells.{cell}.nodes.{node}.route._candidates.{edge}._candidates.{operation}."
        f"{inside}"
    )


def _first_match(name: str, rules: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    raise ValueError(f"{name!r} is the name of no weight of a derived network.")


def as_main(name: str) -> str:
    """Bring a name of a checkpoint to the form of the main branch: no prefix, no older layout."""
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name.replace(".edges.choices.", ".route._candidates.").replace(
        ".0.choices.", "._candidates."
    )
