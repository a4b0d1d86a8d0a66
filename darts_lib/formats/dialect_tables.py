"""Cells as the tables and lists of each dialect: read from plain data, and written as text."""

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import partial
from itertools import product
from typing import Any, TypeVar

import yaml

from darts_lib.engine.refusals import show
from darts_lib.genotype import BaseGenotype, Genotype, GenotypeError, Pair
from darts_lib.search_space import INPUTS, KINDS, PRIMITIVES, row_offset

Cell = TypeVar("Cell", bound=BaseGenotype)

OPERATIONS = PRIMITIVES[1:]

Choices = Mapping[object, Sequence[object]]  # by name; a name in a file may be anything


def tell(line: str) -> None:
    """Say in a line on stderr which of several cells, or what of one, was taken."""
    print(f"genotype: {line}", file=sys.stderr)


# --- fields: the original, pt.darts, FairDARTS, our own JSON -----------------------------------


def read_fields(values: Mapping[Any, Any], kind: type[Cell]) -> Cell:
    """Read a cell's fields; pairs may be in a list for each node, or triples with the node."""
    names = [field.name for field in fields(kind)]
    empty = [key for key in values if key not in names and values[key] in (None, "", [], {})]
    table = {key: value for key, value in values.items() if key not in empty}
    for cell in KINDS if kind is Genotype else ():
        pairs = table.get(cell)
        if isinstance(pairs, list | tuple) and pairs:
            if is_nested(pairs):
                table[cell] = pairs = _joined(cell, dict(enumerate(pairs, start=INPUTS)))
            if all(map(_is_triple, pairs)):  # FairDARTS's (operation, node, source)
                nodes: dict[int, list[Any]] = {}
                for operation, node, source in pairs:
                    nodes.setdefault(node, []).append([operation, source])
                table[cell] = _joined(cell, nodes)
    genotype = kind.from_dict(table)
    if empty:
        tell(f"left out, since nothing is in them: {', '.join(map(str, empty))[:200]}")
    return genotype


def is_nested(pairs: Sequence[Any]) -> bool:
    """Say whether pairs stand in a list for each node."""
    first = pairs[0] if pairs else ()
    return isinstance(first, list | tuple) and isinstance([*first, 0][0], list | tuple)


def _is_triple(item: Any) -> bool:
    return isinstance(item, list | tuple) and [type(part) for part in item] == [str, int, int]


def _joined(kind: str, nodes: Mapping[int, Any]) -> list[Any]:
    """Join the two pairs of each node into the flat list of the original, or refuse a node."""
    for node in range(min(INPUTS, *nodes), max(nodes) + 1):
        pairs = nodes.get(node, [])
        if node < INPUTS or not isinstance(pairs, list | tuple) or len(pairs) != 2:
            raise GenotypeError(
                f"{kind}, node {node} has {show(pairs)}; all nodes from {INPUTS} need two pairs."
            )
    return [pair for node in sorted(nodes) for pair in nodes[node]]


def _write_nested(genotype: Genotype) -> str:
    parts = []
    for kind in KINDS:
        concat = genotype.concat(kind)
        nodes = [list(pairs) for each, _, pairs in _nodes(genotype) if each == kind]
        span = range(concat[0], concat[-1] + 1)  # pt.darts writes a range where it can
        parts.append(f"{kind}={nodes!r}")
        parts.append(f"{kind}_concat={span if tuple(span) == concat else list(concat)!r}")
    return f"Genotype({', '.join(parts)})"


def _nodes(genotype: Genotype) -> Iterator[tuple[str, int, tuple[Pair, ...]]]:
    """Yield the kind of cell, the number and the two pairs of each node."""
    for kind in KINDS:
        pairs = genotype.pairs(kind)
        for i in range(0, len(pairs), 2):
            yield kind, i // 2 + INPUTS, pairs[i : i + 2]


# --- numbers: NASLib, BANANAS, NAS-Bench-301 ---------------------------------------------------


def _read_numbers(cells: Sequence[Any], operations: Sequence[str] = ()) -> Genotype:
    """Read pairs (source, operation) by the order of `operations`, or by the one that is certain.

    An operation 0 is `none` for BANANAS, so that the cell is NASLib's; only BANANAS has a 7.
    """
    numbers = {operation for pairs in cells for _, operation in pairs}
    if not operations and (0 in numbers) == (7 in numbers):
        raise GenotypeError(
            "the numbers of the operations may be NASLib's (max_pool_3x3 is 0) or BANANAS's "
            "(it is 1, and none is 0); say --from naslib or --from bananas."
        )
    operations = operations or (PRIMITIVES if 7 in numbers else OPERATIONS)
    if wrong := [number for number in sorted(numbers) if not 0 <= number < len(operations)]:
        raise GenotypeError(f"operation {wrong[0]} is none of 0 to {len(operations) - 1}.")
    named = ([(operations[number], source) for source, number in pairs] for pairs in cells)
    return Genotype.joining_all(*named)


EDGE = re.compile("(?:.*[:_])?edge_(normal|reduce)_([0-9]{1,2})")


def _read_nasbench301(table: Mapping[str, object]) -> Genotype:
    """Read NAS-Bench-301's settings as MMRazor's choices; those of training are left out."""
    prefix = next((key for key in table if EDGE.fullmatch(str(key))), "").rpartition("edge_")[0]
    choices: dict[object, list[object]] = {}
    for kind, node in product(KINDS, range(INPUTS, INPUTS + 4)):
        row, alias = row_offset(node), f"{kind}_n{node}"
        given = {s: table.get(f"{prefix}edge_{kind}_{row + s}") for s in range(node)}
        there = {str(s): operation for s, operation in given.items() if operation is not None}
        sources = table.get(f"{prefix}inputs_node_{kind}_{node}") or "_".join(there)
        choices |= {f"{alias}_p{source}": [operation] for source, operation in there.items()}
        choices[alias] = [f"{alias}_p{source}" for source in str(sources).split("_")]
    return _follow(choices, switch="")


# --- choices by name: MMRazor, and NNI's older examples ---------------------------------------


def _read_mmrazor(table: Mapping[object, object]) -> Genotype:
    """Read MMRazor's choices; edges that no node chooses may be there and are ignored."""
    choices: dict[object, list[object]] = {}
    for alias, entry in table.items():
        chosen = entry.get("chosen") if isinstance(entry, dict) and len(entry) == 1 else None
        if not isinstance(chosen, list):
            raise GenotypeError(f"{show(alias)} holds {show(entry)}; write `chosen:` and a list.")
        choices[alias] = chosen
    return _follow(choices, switch="")


def _follow(choices: Choices, switch: str) -> Genotype:
    """Go from each node to its two chosen edges and from these to their operations."""
    pattern = re.compile(rf"(?:normal|reduce)_n([2-9]|[1-9][0-9])(?:{switch}|_p(0|[1-9][0-9]?))")
    last = INPUTS  # the highest node that any name speaks of, so that no lost node goes unnoticed
    for alias in choices:
        if not (match := pattern.fullmatch(str(alias))):
            wanted = f"normal_n2{switch} or normal_n2_p0"
            raise GenotypeError(f"unknown field {show(alias)}; names are like {wanted}.")
        last = max(last, int(match[1]))
    cells: dict[str, list[Any]] = {kind: [] for kind in KINDS}
    for kind, node in product(KINDS, range(INPUTS, last + 1)):
        alias = f"{kind}_n{node}{switch}"
        edges: dict[object, int] = {f"{kind}_n{node}_p{source}": source for source in range(node)}
        there = [edge for edge in edges if edge in choices]
        chosen = choices.get(alias, ())
        if len(chosen) != 2 or chosen[0] == chosen[1] or any(edge not in there for edge in chosen):
            raise GenotypeError(
                f"{alias} chooses {show(chosen) if chosen else 'nothing'}; it needs two different "
                f"edges of those that are there: {', '.join(map(str, there)) or 'none'}."
            )
        cells[kind] += [(_single(choices[edge]), edges[edge]) for edge in chosen]
    return _genotype(cells)


def _genotype(cells: Mapping[str, Sequence[Any]]) -> Genotype:
    """Return the genotype of these pairs, whose outputs join all nodes; it checks each of them."""
    joined = {f"{kind}_concat": [*Genotype.numbers(pairs)] for kind, pairs in cells.items()}
    return Genotype.from_dict({**cells, **joined})


def _single(value: object) -> object:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _write_mmrazor(genotype: Genotype) -> str:
    """Return MMRazor's yaml with the chosen edges only, or refuse what would not come back."""
    table: dict[object, object] = {}
    try:
        for kind, node, pairs in _nodes(genotype):
            alias = f"{kind}_n{node}"
            table[alias] = {"chosen": [f"{alias}_p{source}" for _, source in pairs]}
            for name, source in sorted(pairs, key=lambda pair: pair[1]):
                if name not in OPERATIONS:
                    raise GenotypeError(f"{kind}, node {node}: mmrazor has no {name}.")
                table[f"{alias}_p{source}"] = {"chosen": [name]}
        for field, value in vars(_read_mmrazor(table)).items():
            if value != (given := getattr(genotype, field)):
                raise GenotypeError(f"{field}={[*given]}: mmrazor always joins {[*value]}.")
    except GenotypeError as error:
        way_out = "write it as original, pt.darts or json."
        raise GenotypeError(f"{str(error).removesuffix('.')}; {way_out}") from None
    return yaml.safe_dump(table, sort_keys=False).rstrip("\n")


# --- NNI --------------------------------------------------------------------------------------

OLDER_NAMES = {name.replace("_", "").replace("pool3x3", "pool"): name for name in OPERATIONS}
"""The operations by what NNI's older examples call them: `maxpool`, `skipconnect`, `sepconv3x3`."""


def _read_nni(table: Mapping[Any, object]) -> Genotype:
    """Read NNI's dictionary, of its hub or of its older examples."""
    if any("/" in str(name) for name in table):
        return _read_hub(table)
    # By short name, or by number in their order.
    operations: dict[Any, str] = {**OLDER_NAMES, **dict(enumerate(OPERATIONS))}
    choices: dict[object, list[object]] = {}
    for name, value in table.items():
        values = value if isinstance(value, list) else [value]
        stem = str(name).removesuffix("_switch")
        if stem != name:
            choices[name] = [f"{stem}_p{x}" if type(x) is int else x for x in values]
        else:
            choices[name] = [operations.get(x, x) if type(x) in (int, str) else x for x in values]
    return _follow(choices, switch="_switch")


def _read_hub(table: Mapping[Any, object]) -> Genotype:
    """Read the hub's `normal/op_2_0` and `normal/input_2_0` of each pair, of four nodes."""
    cells: dict[str, list[Any]] = {kind: [] for kind in KINDS}
    left = {name: table[name] for name in table if name not in ("width", "depth")}  # of the net
    for kind, node, k in product(KINDS, range(INPUTS, INPUTS + 4), range(2)):
        names = [f"{kind}/{what}_{node}_{k}" for what in ("op", "input")]
        if lost := [name for name in names if name not in table]:
            raise GenotypeError(f"field {lost[0]} is missing; each of four nodes has two pairs.")
        cells[kind].append([_single(left.pop(name)) for name in names])
    for name in left:
        raise GenotypeError(f"unknown field {show(name)}; nodes go from 2 to 5, pairs 0 and 1.")
    return _genotype(cells)


# --- all of them ------------------------------------------------------------------------------

READERS: dict[str, Callable[[Any], Genotype]] = {
    "mmrazor": _read_mmrazor,
    "nni": _read_nni,
    "nasbench301": _read_nasbench301,
    "naslib": partial(_read_numbers, operations=OPERATIONS),
    "bananas": partial(_read_numbers, operations=PRIMITIVES),
    "numbers": _read_numbers,
}
"""How the data of a dialect are read that has other fields than a genotype."""

WRITERS: dict[str, Callable[[Genotype], str]] = {
    "original": str,
    "pt.darts": _write_nested,
    "mmrazor": _write_mmrazor,
    "json": lambda genotype: json.dumps(genotype.to_dict()),
}
