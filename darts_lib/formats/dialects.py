"""The text formats in which other projects write a discrete cell: read, write, convert.

original    the original's `Genotype(normal=[...], ...)`; holds any cell
pt.darts    khanrc/pt.darts: the same with an inner list for each node; holds any cell
mmrazor     MMRazor's yaml; two different sources a node, all nodes joined, the search space's
            operations, as many nodes in both cells
nni         NNI's dictionary as JSON, which is read but not written
json        this library's own `genotype.json`; holds any cell

Nothing in a text is ever run. MMRazor, as in `configs/nas/mmcls/darts` of its release 1.0: node
`normal_n3` chooses two edges, edge `normal_n3_p0` (from state 0 into node 3) an operation. NNI's
hub (3.0: `nni/nas/hub/pytorch/nasnet.py`, 2.x: `nni/retiarii/hub/pytorch`): `normal/op_3_0` and
`normal/input_3_0` are the operation and the source of node 3's first pair; the source is a number
or a list of one. NNI's older examples (`examples/nas/darts`, `examples/nas/oneshot/darts`) have
names like MMRazor's, nodes as `normal_n3_switch`, and choices by name or by number.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import yaml

from darts_lib.engine.refusals import one_line, show
from darts_lib.formats.dialect_texts import load_json, load_yaml
from darts_lib.genotype import LIMIT, Genotype, GenotypeError, Pair, literal_fields
from darts_lib.search_space import INPUTS, KINDS, PRIMITIVES

OPERATIONS = PRIMITIVES[1:]

MESSAGE_LIMIT = 400  # characters; a file's values may be of any length

Choices = Mapping[object, Sequence[object]]  # by name; a name in a file may be anything


def read(text: str, dialect: str = "") -> Genotype:
    """Return the cell that a text holds in `dialect`; without one, recognise it from the text.

    Raises GenotypeError, one line that names the dialect and the line or the field.
    """
    if len(text) > LIMIT:
        raise GenotypeError(
            f"the text has more than {LIMIT} characters and is no cell; name another file."
        )
    name = dialect or recognise(text)
    if name not in DIALECTS:
        raise GenotypeError(f"unknown dialect {show(name)}; use one of {', '.join(DIALECTS)}.")
    try:
        return _READERS[name](text)
    except (ValueError, RecursionError) as error:
        line = f"{name}: {one_line(error)}"
        more = "..." if len(line) > MESSAGE_LIMIT else ""
        raise GenotypeError(line[:MESSAGE_LIMIT] + more) from None


def write(genotype: Genotype, dialect: str) -> str:
    """Return the text of a cell in `dialect`, one of `WRITTEN`, with no line break at its end.

    Raises GenotypeError, which names the node and the reason, where the dialect has no place for
    the cell, and for a dialect that is not written.
    """
    if dialect not in WRITTEN:
        read_only = f"{dialect} is read but not written"
        what = read_only if dialect in DIALECTS else f"unknown dialect {show(dialect)}"
        raise GenotypeError(f"{what}; use one of {', '.join(WRITTEN)}.")
    return _WRITERS[dialect](genotype)


def recognise(text: str) -> str:
    """Return the dialect that a text, perhaps malformed, looks like; GenotypeError for none."""
    start = text.lstrip()
    if start.startswith("Genotype"):
        nested = re.search(r"[\[(]\s*[\[(]\s*[\[(]", text)
        return "pt.darts" if nested else "original"
    if re.search(r"\bchosen['\"]?\s*:", text):
        return "mmrazor"
    if start.startswith("{"):
        return "nni" if re.search(r'"(normal|reduce)(/|_n[0-9])', text) else "json"
    raise GenotypeError(
        f"line 1: {show(start)} is the start of no known dialect; name one of "
        f"{', '.join(DIALECTS)}."
    )


# --- lists in lists: pt.darts -----------------------------------------------------------------


def _read_nested(text: str) -> Genotype:
    """Join the inner lists of pt.darts, one a node, into the flat list of the original."""
    values = literal_fields(text)
    for kind in (kind for kind in KINDS if kind in values):
        nodes = values[kind]
        if not isinstance(nodes, list | tuple):
            raise GenotypeError(f"field {kind} is {show(nodes)}; write a list of nodes.")
        for node, pairs in enumerate(nodes, start=INPUTS):
            if not isinstance(pairs, list | tuple) or len(pairs) != 2:
                raise GenotypeError(
                    f"field {kind}, node {node} is {show(pairs)}; write a list of two pairs."
                )
        values[kind] = [pair for pairs in nodes for pair in pairs]
    return Genotype.from_dict(values)


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


# --- choices by name: MMRazor, and NNI's older examples ---------------------------------------


def _read_mmrazor(text: str) -> Genotype:
    """Read MMRazor's yaml; edges that no node chooses may be there and are ignored."""
    choices: dict[object, list[object]] = {}
    for alias, entry in load_yaml(text).items():
        chosen = entry.get("chosen") if isinstance(entry, dict) and len(entry) == 1 else None
        if not isinstance(chosen, list):
            raise GenotypeError(f"{show(alias)} holds {show(entry)}; write `chosen:` and a list.")
        choices[alias] = chosen
    return _follow(choices, switch="")


def _follow(choices: Choices, switch: str) -> Genotype:
    """Go from each node to its two chosen edges and from these to their operations."""
    cells: dict[str, list[Pair]] = {kind: [] for kind in KINDS}
    for kind, node in product(KINDS, range(INPUTS, _last_node(choices, switch) + 1)):
        edges = {f"{kind}_n{node}_p{source}": source for source in range(node)}
        for edge in _chosen_edges(choices, f"{kind}_n{node}{switch}", list(edges)):
            cells[kind].append((_operation(edge, choices[edge]), edges[edge]))
    return Genotype.joining_all(*cells.values())


def _last_node(choices: Choices, switch: str) -> int:
    """Return the highest node that any name speaks of, so that no lost node goes unnoticed."""
    pattern = re.compile(rf"(?:normal|reduce)_n([2-9]|[1-9][0-9])(?:{switch}|_p(0|[1-9][0-9]?))")
    last = INPUTS
    for alias in choices:
        match = pattern.fullmatch(alias) if isinstance(alias, str) else None
        if not match:
            wanted = f"normal_n2{switch} or normal_n2_p0"
            raise GenotypeError(f"unknown field {show(alias)}; names are like {wanted}.")
        last = max(last, int(match[1]))
    return last


def _chosen_edges(choices: Choices, alias: str, edges: Sequence[str]) -> list[str]:
    if alias not in choices:
        raise GenotypeError(f"field {alias} is missing; both cells need all nodes, two edges each.")
    chosen = [edge for edge in choices[alias] if isinstance(edge, str) and edge in edges]
    if len(choices[alias]) != 2 or len(set(chosen)) != 2:
        given = show(choices[alias])
        raise GenotypeError(f"{alias} chooses {given}; it needs two of {', '.join(edges)}.")
    for edge in chosen:
        if edge not in choices:
            raise GenotypeError(f"field {edge} is missing, and {alias} chooses it; add it.")
    return chosen


def _operation(field: str, value: object) -> str:
    value = _single(value)
    if isinstance(value, str) and value in OPERATIONS:
        return value
    hint = "it is never part of a cell; " if value in ("zero", "none") else ""
    raise GenotypeError(f"{field} chooses {show(value)}; {hint}use one of {', '.join(OPERATIONS)}.")


def _single(value: object) -> object:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _write_mmrazor(genotype: Genotype) -> str:
    """Return MMRazor's yaml with the chosen edges only, or refuse what it has no place for."""
    if reason := _no_place(genotype):
        raise GenotypeError(f"{reason}; write it as original, pt.darts or json.")
    table = {}
    for kind, node, pairs in _nodes(genotype):
        alias = f"{kind}_n{node}"
        table[alias] = {"chosen": [f"{alias}_p{source}" for _, source in pairs]}
        for name, source in sorted(pairs, key=lambda pair: pair[1]):
            table[f"{alias}_p{source}"] = {"chosen": [name]}
    return yaml.safe_dump(table, sort_keys=False).rstrip("\n")


def _no_place(genotype: Genotype) -> str:
    """Say what of a cell MMRazor's format cannot hold; nothing if it holds all of it."""
    for kind, node, pairs in _nodes(genotype):
        if odd := [name for name, _ in pairs if name not in OPERATIONS]:
            return f"{kind}, node {node}: mmrazor has no {odd[0]}"
    for kind in KINDS:
        concat, everything = list(genotype.concat(kind)), [*genotype.numbers(genotype.pairs(kind))]
        if concat != everything:
            return f"{kind}_concat={concat}: mmrazor always joins {everything}"
    sizes = [len(genotype.pairs(kind)) // 2 for kind in KINDS]
    if sizes[0] != sizes[1]:
        return f"mmrazor has as many nodes in both cells, not {sizes[0]} and {sizes[1]}"
    for kind, node, ((_, first), (_, second)) in _nodes(genotype):
        if first == second:
            twice = f"{kind}, node {node} takes source {first} twice"
            return f"{twice}, and mmrazor has one edge between two states"
    return ""


# --- NNI --------------------------------------------------------------------------------------

OLDER_NAMES = {name.replace("_", "").replace("pool3x3", "pool"): name for name in OPERATIONS}
"""The operations by what NNI's older examples call them: `maxpool`, `skipconnect`, `sepconv3x3`."""

HUB_FIELDS = [
    (f"{kind}/op_{node}_{k}", f"{kind}/input_{node}_{k}")
    for kind, node, k in product(KINDS, range(INPUTS, INPUTS + 4), range(2))
]
"""What the hub calls operation and source of each pair; its cells have four nodes."""


def _read_nni(text: str) -> Genotype:
    """Read NNI's dictionary, of its hub or of its older examples, as JSON."""
    table = load_json(text)
    if any("/" in name for name in table):
        return _read_hub(table)
    # By short name, or by number in their order.
    operations: dict[Any, str] = {**OLDER_NAMES, **dict(enumerate(OPERATIONS))}
    choices: dict[object, list[object]] = {}
    for name, value in table.items():
        values, stem = value if isinstance(value, list) else [value], name.removesuffix("_switch")
        if stem != name:
            choices[name] = [f"{stem}_p{x}" if type(x) is int else x for x in values]
        else:
            choices[name] = [operations.get(x, x) if type(x) in (int, str) else x for x in values]
    return _follow(choices, switch="_switch")


def _read_hub(table: Mapping[str, object]) -> Genotype:
    needed = [name for pair in HUB_FIELDS for name in pair]
    for name in table:
        if name not in (*needed, "width", "depth"):  # these two size the network
            raise GenotypeError(f"unknown field {show(name)}; cells go from {needed[0]} to op_5_1.")
    for name in needed:
        if name not in table:
            raise GenotypeError(f"field {name} is missing; each of the four nodes has two pairs.")
    pairs = []
    for name, field in HUB_FIELDS:
        operation, source = _operation(name, table[name]), _single(table[field])
        if type(source) is not int:
            raise GenotypeError(f"{field} is {show(source)}; write one state, as 0 or as [0].")
        pairs.append((operation, source))
    return Genotype.joining_all(pairs[:8], pairs[8:])


# --- all of them ------------------------------------------------------------------------------

_READERS: dict[str, Callable[[str], Genotype]] = {
    "original": Genotype.from_text,
    "pt.darts": _read_nested,
    "mmrazor": _read_mmrazor,
    "nni": _read_nni,
    "json": lambda text: Genotype.from_dict(load_json(text)),
}
_WRITERS: dict[str, Callable[[Genotype], str]] = {
    "original": str,
    "pt.darts": _write_nested,
    "mmrazor": _write_mmrazor,
    "json": lambda genotype: json.dumps(genotype.to_dict()),
}

DIALECTS, WRITTEN = tuple(_READERS), tuple(_WRITERS)
"""The names of the dialects that are read, and of those that are written."""
