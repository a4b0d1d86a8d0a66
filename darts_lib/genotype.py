"""Genotypes: the discrete cell as data, its text and JSON, and the published cells.

A genotype lists two (operation, source) pairs a node, in the order of the nodes; the i-th pair
belongs to node i // 2 + 2. How a genotype is found from alphas is in `derivation.py`.
"""

import ast
import difflib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Self

from darts_lib.engine.refusals import show
from darts_lib.search_space import (
    EXTRA_PRIMITIVES,
    INPUTS,
    KINDS,
    OWN_PRIMITIVES,
    PRIMITIVES,
)

Pair = tuple[str, int]
KNOWN_OPERATIONS = (*PRIMITIVES[1:], *EXTRA_PRIMITIVES)
"""What every cell may hold; a reader's own operations are known too, once they are added."""

LIMIT = 100_000
"""The most characters of a text; a cell of four nodes needs about a thousand."""


class GenotypeError(ValueError):
    """A genotype that cannot be a cell; the message names the node, the value and the way out."""


@dataclass(frozen=True)
class Genotype:
    """A normal and a reduction cell. `str(genotype)` is the original's text, readable back."""

    normal: tuple[Pair, ...]
    normal_concat: tuple[int, ...]
    reduce: tuple[Pair, ...]
    reduce_concat: tuple[int, ...]

    def __post_init__(self) -> None:
        for kind in KINDS:
            _check_cell(kind, self.pairs(kind), self.concat(kind))

    def pairs(self, kind: str) -> tuple[Pair, ...]:
        """Return the (operation, source) pairs of the `normal` or the `reduce` cell."""
        return self.normal if kind == "normal" else self.reduce

    def concat(self, kind: str) -> tuple[int, ...]:
        """Return the states that the cell joins in its output."""
        return self.normal_concat if kind == "normal" else self.reduce_concat

    def skips(self, kind: str = "normal") -> int:
        """Count the skip connections of a cell; three or more of eight are a sign of collapse."""
        return sum(name == "skip_connect" for name, _ in self.pairs(kind))

    def __str__(self) -> str:
        parts = []
        for kind in KINDS:
            parts.append(f"{kind}={list(self.pairs(kind))!r}")
            parts.append(f"{kind}_concat={list(self.concat(kind))!r}")
        return f"Genotype({', '.join(parts)})"

    def to_dict(self) -> dict[str, object]:
        """Return plain lists for JSON: pairs as [operation, source]."""
        lists: dict[str, object] = json.loads(json.dumps(asdict(self)))
        return lists

    @classmethod
    def from_dict(cls, values: object) -> Self:
        """Build from JSON's lists; a missing, unknown or malformed field is named."""
        names = [field.name for field in fields(cls)]
        if not isinstance(values, Mapping):
            raise GenotypeError(f"a genotype must be an object with {names}, not {show(values)}.")
        if set(values) != set(names):
            odd = show(sorted(set(values) ^ set(names)))
            raise GenotypeError(f"genotype fields must be {names}; missing or unknown: {odd}.")
        parsed = {name: _field(name, values[name]) for name in names}
        return cls(**parsed)  # type: ignore[arg-type]

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read the original's `Genotype(normal=[...], ...)`, concat as a list or `range(2, 6)`."""
        return cls.from_dict(literal_fields(text))


def _check_cell(kind: str, pairs: Sequence[Pair], concat: Sequence[int]) -> None:
    if not pairs or len(pairs) % 2:
        raise GenotypeError(f"{kind}: {len(pairs)} pairs; every node needs two, so an even number.")
    states = INPUTS + len(pairs) // 2
    for position, (name, source) in enumerate(pairs):
        node = position // 2 + INPUTS
        if name not in (*KNOWN_OPERATIONS, *OWN_PRIMITIVES):
            given = f"{show(name)}{_hint(name)}"
            raise GenotypeError(f"{kind}, node {node}: unknown operation {given}")
        if not 0 <= source < node:
            raise GenotypeError(
                f"{kind}, node {node}: source {show(source)} is not an earlier state; use 0 to "
                f"{node - 1}."
            )
    wrong = [state for state in concat if not INPUTS <= state < states]
    if wrong or not concat or len(set(concat)) != len(concat):
        raise GenotypeError(
            f"{kind}_concat={show(list(concat))} must list distinct nodes from {INPUTS} to "
            f"{states - 1}."
        )


def _hint(name: str) -> str:
    if name == "none":
        return "; 'none' competes in the search but is never part of a cell."
    known = (*KNOWN_OPERATIONS, *OWN_PRIMITIVES)
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}."


def _field(name: str, value: object) -> tuple[object, ...]:
    if not isinstance(value, list | tuple):
        raise GenotypeError(f"{name} must be a list, not {show(value)}.")
    convert: Callable[[str, object], object] = _state if name.endswith("concat") else _pair
    return tuple(convert(name, item) for item in value)


def _state(name: str, item: object) -> int:
    if type(item) is not int:
        raise GenotypeError(f"{name}: {show(item)} is not a state number.")
    return item


def _pair(name: str, item: object) -> Pair:
    """Read a pair; some projects add its softmax weight, which is no part of the cell."""
    if isinstance(item, list | tuple) and (len(item) == 2 or _has_weight(item)):
        operation, source = item[:2]
        if isinstance(operation, str) and type(source) is int:
            return operation, source
    raise GenotypeError(f"{name}: {show(item)} is not a pair ('operation', source).")


def _has_weight(item: Sequence[object]) -> bool:
    return len(item) == 3 and type(item[2]) is float


def literal_fields(text: str) -> dict[str, object]:
    """Parse `Genotype(name=literal, ...)` through `ast`: nothing in the text is ever run."""
    if len(text) > LIMIT:
        raise GenotypeError(
            f"the text has more than {LIMIT} characters and is no cell; give another."
        )
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
        result: object = ast.literal_eval(value)
    except (ValueError, TypeError, ArithmeticError, MemoryError, RecursionError):
        place = f"line {value.lineno}, column {value.col_offset + 1}"
        raise GenotypeError(
            f"genotype field {show(keyword.arg)} at {place} is not a plain list; "
            "write pairs like ('sep_conv_3x3', 0)."
        ) from None
    return result


def _cell_pair(normal: str, normal_concat: str, reduce: str, reduce_concat: str) -> Genotype:
    """Read a cell from compact text: `operation.source` pairs, names in short."""
    short = {
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

    def pairs(text: str) -> tuple[Pair, ...]:
        split = [item.split(".") for item in text.split()]
        return tuple((short[name], int(source)) for name, source in split)

    def states(text: str) -> tuple[int, ...]:
        return tuple(int(state) for state in text.split())

    return Genotype(pairs(normal), states(normal_concat), pairs(reduce), states(reduce_concat))


PUBLISHED: dict[str, Genotype] = {
    "NASNet": _cell_pair(
        "sep5.1 sep3.0 sep5.0 sep3.0 avg.1 skip.0 avg.0 avg.0 sep3.1 skip.1",
        "2 3 4 5 6",
        "sep5.1 sep7.0 max.1 sep7.0 avg.1 sep5.0 skip.3 avg.2 sep3.2 max.1",
        "4 5 6",
    ),
    "AmoebaNet": _cell_pair(
        "avg.0 max.1 sep3.0 sep5.2 sep3.0 avg.3 sep3.1 skip.1 skip.0 avg.1",
        "4 5 6",
        "avg.0 sep3.1 max.0 sep7.2 sep7.0 avg.1 max.0 max.1 conv7.0 sep3.5",
        "3 4 6",
    ),
    "DARTS_V1": _cell_pair(
        "sep3.1 sep3.0 skip.0 sep3.1 skip.0 sep3.1 sep3.0 skip.2",
        "2 3 4 5",
        "max.0 max.1 skip.2 max.0 max.0 skip.2 skip.2 avg.0",
        "2 3 4 5",
    ),
    "DARTS_V2": _cell_pair(
        "sep3.0 sep3.1 sep3.0 sep3.1 sep3.1 skip.0 skip.0 dil3.2",
        "2 3 4 5",
        "max.0 max.1 skip.2 max.1 max.0 skip.2 skip.2 max.1",
        "2 3 4 5",
    ),
    "MMRAZOR_9732": _cell_pair(
        "sep3.0 sep3.1 skip.0 sep5.1 sep3.0 skip.1 skip.0 skip.1",
        "2 3 4 5",
        "max.0 sep3.1 max.0 dil5.2 max.0 skip.2 max.0 skip.2",
        "2 3 4 5",
    ),
    "MMRAZOR_ALIAS": _cell_pair(
        "sep3.1 sep3.0 sep3.0 sep3.1 skip.0 sep3.1 dil3.2 skip.0",
        "2 3 4 5",
        "max.0 max.1 max.1 skip.2 skip.2 max.0 max.1 skip.2",
        "2 3 4 5",
    ),
}
"""Published convolutional cells. DARTS_V1 and DARTS_V2 are two releases, not two orders of
gradient; MMRAZOR_ALIAS is DARTS_V2 with the edges of some nodes in another order."""
