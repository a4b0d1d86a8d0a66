"""Genotypes: the discrete cell as data, its text and JSON, and the published cells.

A genotype lists two (operation, source) pairs a node, in the order of the nodes; the i-th pair
belongs to node i // 2 + 2. A recurrent one lists one a node; the i-th belongs to node i + 1. How a
genotype is found from alphas is in `derivation.py`.
"""

import ast
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

from darts_lib.engine.refusals import show, unknown
from darts_lib.search_space import EXTRA_PRIMITIVES, INPUTS, KEPT, OWN_PRIMITIVES, PRIMITIVES

Pair = tuple[str, int]
KNOWN_OPERATIONS = (*PRIMITIVES[1:], *EXTRA_PRIMITIVES)
"""What every cell may hold; a reader's own operations are known too, once they are added."""

LIMIT = 100_000
"""The most characters of a text; a cell of four nodes needs about a thousand."""

_SHORT = {
    "max": "max_pool_3x3",
    "avg": "avg_pool_3x3",
    "skip": "skip_connect",
    "sep3": "sep_conv_3x3",
    "sep5": "sep_conv_5x5",
    "sep7": "sep_conv_7x7",
    "dil3": "dil_conv_3x3",
    "dil5": "dil_conv_5x5",
    "conv7": "conv_7x1_1x7",
}
"""Operations as `BaseGenotype.compact` writes them."""


class GenotypeError(ValueError):
    """A genotype that cannot be a cell; the message names the node, the value and the way out."""


@dataclass(frozen=True)
class BaseGenotype:
    """What the genotypes of convolutional and of recurrent cells share: checks, text and JSON.

    A genotype has two fields for each kind of cell: its (operation, source) pairs, `kept` a node in
    the order of the nodes, and the states that it joins in its output.
    """

    title: ClassVar[str] = "genotype"
    operation: ClassVar[str] = "operation"
    inputs: ClassVar[int] = INPUTS
    kept: ClassVar[int] = KEPT
    primitives: ClassVar[tuple[str, ...]] = PRIMITIVES

    def __post_init__(self) -> None:
        values = tuple(vars(self).items())
        for (kind, pairs), (joined, concat) in zip(values[::2], values[1::2], strict=True):
            _check_pairs(self, kind, pairs)
            _check_concat(joined, concat, self.numbers(pairs))

    @classmethod
    def numbers(cls, pairs: Sequence[Pair]) -> range:
        """Return the numbers of the nodes that have these pairs."""
        return range(cls.inputs, cls.inputs + len(pairs) // cls.kept)

    @classmethod
    def joining_all(cls, *cells: Sequence[Pair]) -> Self:
        """Build from the pairs of each cell, whose output joins all of its nodes."""
        return cls(*(part for pairs in cells for part in (tuple(pairs), tuple(cls.numbers(pairs)))))

    @classmethod
    def compact(cls, *cells: str) -> Self:
        """Read cells like `sep3.0 sep3.1 -> 2`; without an arrow all nodes are joined."""
        values: list[tuple[Any, ...]] = []
        for cell in cells:
            text, _, states = cell.partition("->")
            items = [item.split(".") for item in text.split()]
            pairs = tuple((_SHORT.get(name, name), int(source)) for name, source in items)
            values += [pairs, tuple(map(int, states.split())) or tuple(cls.numbers(pairs))]
        return cls(*values)

    @classmethod
    def known(cls) -> tuple[str, ...]:
        """Return the names of the operations that a cell may have."""
        return cls.primitives[1:]

    def cells(self) -> dict[str, tuple[Pair, ...]]:
        """Return the pairs of each kind of cell."""
        return dict(tuple(vars(self).items())[::2])

    def __str__(self) -> str:
        parts = [f"{name}={list(value)!r}" for name, value in vars(self).items()]
        return f"Genotype({', '.join(parts)})"

    def to_dict(self) -> dict[str, object]:
        """Return plain lists for JSON: pairs as [operation, source]."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, values: object) -> Self:
        """Build from JSON's lists; a missing, unknown or malformed field is named."""
        names = [field.name for field in fields(cls)]
        if not isinstance(values, Mapping):
            raise GenotypeError(f"a genotype must be an object with {names}, not {show(values)}.")
        if set(values) != set(names):
            odd = show(sorted(set(values) ^ set(names), key=str))
            raise GenotypeError(f"{cls.title} fields must be {names}; missing or unknown: {odd}.")
        return cls(**{name: _field(cls.operation, name, values[name]) for name in names})

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read the original's `Genotype(normal=[...], ...)`, concat as a list or `range(2, 6)`."""
        return cls.from_dict(literal_fields(text))


def _check_pairs(cell: BaseGenotype, kind: str, pairs: Sequence[Pair]) -> None:
    if not pairs:
        raise GenotypeError(f"{kind}: no pairs; a cell needs at least one node.")
    if len(pairs) % cell.kept:
        raise GenotypeError(f"{kind}: {len(pairs)} pairs; every node needs {cell.kept}.")
    for position, (name, source) in enumerate(pairs):
        node = position // cell.kept + cell.inputs
        place = f"{kind}, node {node}"
        if name == "none":
            raise GenotypeError(
                f"{place}: unknown {cell.operation} 'none'; 'none' competes in the search but is "
                "never part of a cell."
            )
        if name not in cell.known():
            raise GenotypeError(f"{place}: {unknown(cell.operation, name, cell.known())}")
        if not 0 <= source < node:
            given = f"source {show(source)} is not an earlier state"
            raise GenotypeError(f"{place}: {given}; use 0 to {node - 1}.")


def _check_concat(name: str, concat: Sequence[int], nodes: range) -> None:
    wrong = [state for state in concat if state not in nodes]
    if wrong or not concat or len(set(concat)) != len(concat):
        given = f"{name}={show(list(concat))}"
        raise GenotypeError(f"{given} must list distinct nodes from {nodes[0]} to {nodes[-1]}.")


def _field(operation: str, name: str, value: object) -> tuple[Any, ...]:
    """Read the pairs or the states of a field; `operation` is what a pair begins with."""
    if not isinstance(value, list | tuple):
        raise GenotypeError(f"{name} must be a list, not {show(value)}.")
    if not name.endswith("concat"):
        return tuple(_pair(operation, name, item) for item in value)
    if odd := [item for item in value if type(item) is not int]:
        raise GenotypeError(f"{name}: {show(odd[0])} is not a state number.")
    return tuple(value)


def _pair(operation: str, name: str, item: object) -> Pair:
    """Read a pair; some projects add its softmax weight, which is no part of the cell."""
    match item:
        case [str(first), int(source)] | [str(first), int(source), float()]:
            if type(source) is int:  # True is one too
                return first, source
    raise GenotypeError(f"{name}: {show(item)} is not a pair ('{operation}', source).")


@dataclass(frozen=True)
class Genotype(BaseGenotype):
    """A normal and a reduction cell. `str(genotype)` is the original's text, readable back."""

    normal: tuple[Pair, ...]
    normal_concat: tuple[int, ...]
    reduce: tuple[Pair, ...]
    reduce_concat: tuple[int, ...]

    @classmethod
    def known(cls) -> tuple[str, ...]:
        """Return what a cell may have: also what a reader added, once it is added."""
        return (*KNOWN_OPERATIONS, *OWN_PRIMITIVES)

    def pairs(self, kind: str) -> tuple[Pair, ...]:
        """Return the (operation, source) pairs of the `normal` or the `reduce` cell."""
        return self.normal if kind == "normal" else self.reduce

    def concat(self, kind: str) -> tuple[int, ...]:
        """Return the states that the cell joins in its output."""
        return self.normal_concat if kind == "normal" else self.reduce_concat

    def skips(self, kind: str = "normal") -> int:
        """Count the skip connections of a cell; three or more of eight are a sign of collapse."""
        return sum(name == "skip_connect" for name, _ in self.pairs(kind))


def literal_fields(text: str) -> dict[str, object]:
    """Parse `Genotype(name=literal, ...)` through `ast`: nothing in the text is ever run."""
    if len(text) > LIMIT:
        many = f"more than {LIMIT} characters"
        raise GenotypeError(f"the text has {many} and is no cell; give another.")
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        line = getattr(error, "lineno", None) or 1
        raise GenotypeError(f"not a genotype: line {line} cannot be read ({error}).") from None
    if not (isinstance(call, ast.Call) and getattr(call.func, "id", "") == "Genotype"):
        raise GenotypeError(f"not a genotype: expected Genotype(...), found {text.strip()[:60]!r}.")
    if call.args or any(keyword.arg is None for keyword in call.keywords):
        raise GenotypeError("a genotype's fields are named: Genotype(normal=[...], ...).")
    names = Counter(str(keyword.arg) for keyword in call.keywords)
    if twice := [name for name, count in names.items() if count > 1]:
        raise GenotypeError(f"genotype field {show(twice[0])} is there more than once; keep one.")
    return {str(keyword.arg): _literal(keyword) for keyword in call.keywords}


def _literal(keyword: ast.keyword) -> object:
    value = keyword.value
    try:
        if isinstance(value, ast.Call) and getattr(value.func, "id", "") == "range":
            start, stop = (ast.literal_eval(bound) for bound in (*value.args, *value.keywords))
            if type(start) is int and type(stop) is int and abs(stop - start) < 100:
                return list(range(start, stop))
        return ast.literal_eval(value)
    except (ValueError, TypeError, ArithmeticError, MemoryError, RecursionError):
        place = f"line {value.lineno}, column {value.col_offset + 1}"
        raise GenotypeError(
            f"genotype field {show(keyword.arg)} at {place} is not a plain list; "
            "write pairs like ('sep_conv_3x3', 0)."
        ) from None


PUBLISHED = {
    "NASNet": Genotype.compact(
        "sep5.1 sep3.0 sep5.0 sep3.0 avg.1 skip.0 avg.0 avg.0 sep3.1 skip.1",
        "sep5.1 sep7.0 max.1 sep7.0 avg.1 sep5.0 skip.3 avg.2 sep3.2 max.1 -> 4 5 6",
    ),
    "AmoebaNet": Genotype.compact(
        "avg.0 max.1 sep3.0 sep5.2 sep3.0 avg.3 sep3.1 skip.1 skip.0 avg.1 -> 4 5 6",
        "avg.0 sep3.1 max.0 sep7.2 sep7.0 avg.1 max.0 max.1 conv7.0 sep3.5 -> 3 4 6",
    ),
    "DARTS_V1": Genotype.compact(
        "sep3.1 sep3.0 skip.0 sep3.1 skip.0 sep3.1 sep3.0 skip.2",
        "max.0 max.1 skip.2 max.0 max.0 skip.2 skip.2 avg.0",
    ),
    "DARTS_V2": Genotype.compact(
        "sep3.0 sep3.1 sep3.0 sep3.1 sep3.1 skip.0 skip.0 dil3.2",
        "max.0 max.1 skip.2 max.1 max.0 skip.2 skip.2 max.1",
    ),
    "MMRAZOR_9732": Genotype.compact(
        "sep3.0 sep3.1 skip.0 sep5.1 sep3.0 skip.1 skip.0 skip.1",
        "max.0 sep3.1 max.0 dil5.2 max.0 skip.2 max.0 skip.2",
    ),
    "MMRAZOR_ALIAS": Genotype.compact(
        "sep3.1 sep3.0 sep3.0 sep3.1 skip.0 sep3.1 dil3.2 skip.0",
        "max.0 max.1 max.1 skip.2 skip.2 max.0 max.1 skip.2",
    ),
}
"""Published convolutional cells. DARTS_V1 and DARTS_V2 are two releases, not two orders of
gradient; MMRAZOR_ALIAS is DARTS_V2 with the edges of some nodes in another order."""
