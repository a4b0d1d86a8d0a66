"""The formats of MMRazor and NNI, which write a cell as a table: a choice under each name.

MMRazor, as in `configs/nas/mmcls/darts` of its release 1.0: node `normal_n3` chooses two edges,
edge `normal_n3_p0` (from state 0 into node 3) chooses an operation. The yaml is read as plain data.

NNI, the space `DARTS` of its model hub (release 3.0: `nni/nas/hub/pytorch/nasnet.py` and
`nni/nas/nn/pytorch/cell.py`; 2.x: `nni/retiarii/hub/pytorch`): `normal/op_3_0` and
`normal/input_3_0` are the operation and the source of node 3's first pair. A source is a number in
2.x and a list of one number in 3.0; 2.x takes the list too, so lists are what is written. NNI's
older examples (1.x: `examples/nas/darts`, 2.x: `examples/nas/oneshot/darts`) are read but not
written: names like MMRazor's, nodes as `normal_n3_switch`, and choices by name or by number.

Neither format has a place for the states that a cell joins: both join all nodes.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence

import yaml

from darts_lib.engine.refusals import show
from darts_lib.formats.dialect_texts import DialectError, load_json, load_yaml
from darts_lib.genotype import Genotype, Pair
from darts_lib.search_space import INPUTS, KINDS, PRIMITIVES

OPERATIONS = PRIMITIVES[1:]
NNI_NODES = 4
NNI_NETWORK = ("width", "depth")
"""Fields of an NNI dictionary that size the network; they say nothing of the cell."""

OLD_NAMES = {
    "maxpool": "max_pool_3x3",
    "avgpool": "avg_pool_3x3",
    "skipconnect": "skip_connect",
    "sepconv3x3": "sep_conv_3x3",
    "sepconv5x5": "sep_conv_5x5",
    "dilconv3x3": "dil_conv_3x3",
    "dilconv5x5": "dil_conv_5x5",
}
"""The operations of NNI's older examples, in the order of our own."""

WAY_OUT = "write it as original, pt.darts or json"
Choices = Mapping[object, Sequence[object]]
"""What is chosen under each name; a name in a file may be anything."""


def read_mmrazor(text: str) -> Genotype:
    """Read MMRazor's yaml; edges that no node chooses may be there and are ignored.

    Raises DialectError, which names the line or the alias.
    """
    choices: dict[object, list[object]] = {}
    for alias, entry in load_yaml(text).items():
        chosen = entry.get("chosen") if isinstance(entry, dict) and len(entry) == 1 else None
        if not isinstance(chosen, list):
            raise DialectError(f"{show(alias)} holds {show(entry)}; write `chosen:` and a list.")
        choices[alias] = chosen
    return _follow(choices, switch="")


def write_mmrazor(genotype: Genotype) -> str:
    """Return MMRazor's yaml with the chosen edges only.

    Raises DialectError, which names the node, for a source taken twice by one node, cells of
    different size, an operation outside the search space, or a concat that leaves nodes out.
    """
    _check_plain(genotype, "mmrazor")
    if len(genotype.normal) != len(genotype.reduce):
        raise DialectError(
            f"mmrazor has as many nodes in both cells, not {len(genotype.normal) // 2} and "
            f"{len(genotype.reduce) // 2}; {WAY_OUT}."
        )
    table = {}
    for kind, node, pairs in _nodes(genotype):
        if pairs[0][1] == pairs[1][1]:
            raise DialectError(
                f"{kind}, node {node} takes source {pairs[0][1]} twice, and mmrazor has one edge "
                f"between two states; {WAY_OUT}."
            )
        alias = f"{kind}_n{node}"
        table[alias] = {"chosen": [f"{alias}_p{source}" for _, source in pairs]}
        for name, source in sorted(pairs, key=lambda pair: pair[1]):
            table[f"{alias}_p{source}"] = {"chosen": [name]}
    return yaml.safe_dump(table, sort_keys=False).rstrip("\n")


def read_nni(text: str) -> Genotype:
    """Read NNI's dictionary, of its hub or of its older examples, as JSON.

    Raises DialectError, which names the line or the field.
    """
    table = load_json(text)
    if any("/" in name for name in table):
        return _read_hub(table)
    choices: dict[object, list[object]] = {}
    for name, value in table.items():
        values = value if isinstance(value, list) else [value]
        if name.endswith("_switch"):
            stem = name.removesuffix("_switch")
            choices[name] = [f"{stem}_p{item}" if type(item) is int else item for item in values]
        else:
            choices[name] = [_modern_name(item) for item in values]
    return _follow(choices, switch="_switch")


def _read_hub(table: Mapping[str, object]) -> Genotype:
    places = [
        (kind, f"{node}_{k}")
        for kind in KINDS
        for node in range(INPUTS, INPUTS + NNI_NODES)
        for k in range(2)
    ]
    needed = [f"{kind}/{what}_{place}" for kind, place in places for what in ("op", "input")]
    for name in table:
        if name not in needed and name not in NNI_NETWORK:
            raise DialectError(f"unknown field {show(name)}; cells go from {needed[0]} to op_5_1.")
    for name in needed:
        if name not in table:
            raise DialectError(f"field {name} is missing; each of the four nodes has two pairs.")
    cells: dict[str, list[Pair]] = {kind: [] for kind in KINDS}
    for kind, place in places:
        name, source = f"{kind}/op_{place}", f"{kind}/input_{place}"
        cells[kind].append((_operation(name, table[name]), _source(source, table[source])))
    return _joining_all(cells)


def write_nni(genotype: Genotype) -> str:
    """Return the dictionary of NNI's hub as JSON, a line a field.

    Raises DialectError for cells that are not of four nodes, an operation outside the search
    space, or a concat that leaves nodes out. A source taken twice is fine.
    """
    _check_plain(genotype, "nni")
    for kind in KINDS:
        nodes = len(genotype.pairs(kind)) // 2
        if nodes != NNI_NODES:
            raise DialectError(f"{kind}: NNI's space has four nodes, not {nodes}; {WAY_OUT}.")
    table: dict[str, object] = {}
    for kind, node, pairs in _nodes(genotype):
        for k, (name, source) in enumerate(pairs):
            table[f"{kind}/op_{node}_{k}"] = name
            table[f"{kind}/input_{node}_{k}"] = [source]
    lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in table.items()]
    return "{\n" + ",\n".join(lines) + "\n}"


def _modern_name(value: object) -> object:
    """Translate an operation of NNI's examples: a short name, or its number in their order."""
    if type(value) is int and 0 <= value < len(OPERATIONS):
        return OPERATIONS[value]
    return OLD_NAMES.get(value, value) if isinstance(value, str) else value


def _follow(choices: Choices, switch: str) -> Genotype:
    """Go from each node to its two chosen edges and from these to their operations."""
    last = _last_node(choices, switch)
    cells: dict[str, list[Pair]] = {kind: [] for kind in KINDS}
    for kind in KINDS:
        for node in range(INPUTS, last + 1):
            edges = {f"{kind}_n{node}_p{source}": source for source in range(node)}
            for edge in _chosen_edges(choices, f"{kind}_n{node}{switch}", list(edges)):
                cells[kind].append((_operation(edge, choices[edge]), edges[edge]))
    return _joining_all(cells)


def _last_node(choices: Choices, switch: str) -> int:
    """Return the highest node that any name speaks of, so that no lost node goes unnoticed."""
    pattern = re.compile(rf"(?:normal|reduce)_n([2-9]|[1-9][0-9])(?:{switch}|_p(0|[1-9][0-9]?))")
    last = INPUTS
    for alias in choices:
        match = pattern.fullmatch(alias) if isinstance(alias, str) else None
        if not match:
            wanted = f"normal_n2{switch} or normal_n2_p0"
            raise DialectError(f"unknown field {show(alias)}; names are like {wanted}.")
        last = max(last, int(match[1]))
    return last


def _chosen_edges(choices: Choices, alias: str, edges: Sequence[str]) -> list[str]:
    if alias not in choices:
        raise DialectError(f"field {alias} is missing; both cells need all nodes, two edges each.")
    chosen = [edge for edge in choices[alias] if isinstance(edge, str) and edge in edges]
    if len(choices[alias]) != 2 or len(set(chosen)) != 2:
        given = show(choices[alias])
        raise DialectError(f"{alias} chooses {given}; it needs two of {', '.join(edges)}.")
    for edge in chosen:
        if edge not in choices:
            raise DialectError(f"field {edge} is missing, and {alias} chooses it; add it.")
    return chosen


def _operation(field: str, value: object) -> str:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str) and value in OPERATIONS:
        return value
    hint = "it is never part of a cell; " if value in ("zero", "none") else ""
    raise DialectError(f"{field} chooses {show(value)}; {hint}use one of {', '.join(OPERATIONS)}.")


def _source(field: str, value: object) -> int:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if type(value) is int:
        return value
    raise DialectError(f"{field} is {show(value)}; write one state, as 0 or as [0].")


def _nodes(genotype: Genotype) -> Iterator[tuple[str, int, tuple[Pair, ...]]]:
    for kind in KINDS:
        pairs = genotype.pairs(kind)
        for first in range(0, len(pairs), 2):
            yield kind, first // 2 + INPUTS, pairs[first : first + 2]


def _joining_all(cells: Mapping[str, Sequence[Pair]]) -> Genotype:
    normal, reduce = (tuple(cells[kind]) for kind in KINDS)
    return Genotype(normal, _all_nodes(normal), reduce, _all_nodes(reduce))


def _all_nodes(pairs: Sequence[Pair]) -> tuple[int, ...]:
    return tuple(range(INPUTS, INPUTS + len(pairs) // 2))


def _check_plain(genotype: Genotype, dialect: str) -> None:
    """Refuse a cell that needs more than the search space's operations or joins some nodes only."""
    for kind, node, pairs in _nodes(genotype):
        for name, _ in pairs:
            if name not in OPERATIONS:
                raise DialectError(f"{kind}, node {node}: {dialect} has no {name}; {WAY_OUT}.")
    for kind in KINDS:
        concat, everything = genotype.concat(kind), _all_nodes(genotype.pairs(kind))
        if concat != everything:
            raise DialectError(
                f"{kind}_concat={list(concat)}: {dialect} always joins {list(everything)}; "
                f"{WAY_OUT}."
            )
