"""Cells as text: any text in which one stands is read; the dialects of other projects are written.

original     the original's `Genotype(normal=[...], ...)`; holds any cell
pt.darts     khanrc/pt.darts: the same with an inner list for each node; holds any cell
mmrazor      MMRazor's yaml; two different sources a node, all nodes joined, the search space's
             operations, as many nodes in both cells
json         this library's own `genotype.json`; holds any cell
nni          NNI's dictionary, which is read but not written, as are the next three
nasbench301  NAS-Bench-301's settings: edge `edge_normal_4` (row 4 of the alphas) has an operation,
             and `inputs_node_normal_3` is `0_2` where node 3 hears states 0 and 2
naslib       NASLib's pairs (source, operation) for the two cells, without `none` in its numbers
bananas      the same as BANANAS writes them: `none` is operation 0

Nothing in a text is ever run. A call may have any name, its fields names or places, and FairDARTS's
triples (operation, node, source) for pairs. MMRazor (1.0: `configs/nas/mmcls/darts`): node
`normal_n3` chooses two edges, edge `normal_n3_p0` (from state 0 into node 3) an operation. NNI's
hub (3.0: `nni/nas/hub/pytorch/nasnet.py`, 2.x: `nni/retiarii/hub/pytorch`): `normal/op_3_0` and
`normal/input_3_0` are the operation and the source of node 3's first pair; the source is a number
or a list of one. NNI's older examples (`examples/nas/darts`, `examples/nas/oneshot/darts`) have
names like MMRazor's, nodes as `normal_n3_switch`, and choices by name or by number. NASLib's
numbers: `search_spaces/nasbench301/conversions.py` of NASLib; that BANANAS counts `none`: its #54.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

from darts_lib.engine.refusals import one_line, show
from darts_lib.formats.dialect_tables import (
    EDGE,
    READERS,
    WRITERS,
    Cell,
    is_nested,
    read_fields,
    tell,
)
from darts_lib.formats.dialect_texts import (
    REPEATED,
    Call,
    Named,
    Unread,
    load_json,
    load_yaml,
    readings,
    unread,
)
from darts_lib.genotype import LIMIT, Genotype, GenotypeError, literal_fields

MESSAGE_LIMIT = 400  # characters; a file's values may be of any length

DIALECTS = ("original", "pt.darts", "mmrazor", "nni", "json", "nasbench301", "naslib", "bananas")
WRITTEN = tuple(WRITERS)
"""The names of the dialects that are read, and of those that are written."""

_PARSERS: dict[str, Callable[[str], Any]] = {
    "original": literal_fields,
    "pt.darts": literal_fields,
    "mmrazor": load_yaml,
}
"""How a whole text is parsed; as JSON in the other dialects."""


class Candidate(NamedTuple):
    """What may be a cell in a text: its name there, its dialect, and its data.

    Without a dialect it is another name for the candidate that the data name.
    """

    name: str
    dialect: str
    data: Any


def read(text: str, dialect: str = "", name: str = "") -> Genotype:
    """Return the cell that stands in a text, whatever stands around it; see `read_as`."""
    return read_as(Genotype, text, dialect, name)


def read_as(kind: type[Cell], text: str, dialect: str = "", name: str = "") -> Cell:
    """Return the cell of a kind that stands in a text: its only one, or the one that is named.

    `name` is its name there, the end of that, or its number. Where all have one name, as in a log,
    it is the last, and a line on stderr says which of how many. Cells in other dialects than
    `dialect` do not count. Raises GenotypeError, one line that names the dialect and the line or
    the field, or the cells that there are.
    """
    if dialect and dialect not in DIALECTS:
        raise GenotypeError(f"unknown dialect {show(dialect)}; use one of {', '.join(DIALECTS)}.")
    if len(text) > 10 * LIMIT:
        raise GenotypeError(f"the text has more than {10 * LIMIT} characters; give a part of it.")
    found, log = _found(text, kind)
    if dialect in ("naslib", "bananas"):
        found = [each._replace(dialect=dialect) for each in found if each.dialect == "numbers"]
    elif dialect:
        found = [each for each in found if each.dialect == dialect]
    if found:
        return _cell(_chosen(found, name, log), kind)
    if len(text) > LIMIT:
        raise GenotypeError(
            f"the text has more than {LIMIT} characters and no cell; name another file."
        )
    if not (dialect := dialect or recognise(text)):
        raise GenotypeError(
            f"line 1: {show(text.lstrip())} is the start of no known dialect, and no cell follows; "
            f"name one of {', '.join(DIALECTS)}."
        )
    readable = kind is Genotype or dialect in ("original", "pt.darts")
    return _cell(Candidate(name, dialect if readable else "json", text), kind)  # or what is wrong


def _found(text: str, kind: type[Cell]) -> tuple[list[Candidate], bool]:
    """Return what may be a cell in a text, and whether the text is a log."""
    for pieces, log in readings(text):
        found = [each for name, data in pieces for each in _inside(data, kind, name)]
        if any(each.dialect for each in found):
            return found, log
    return [], False


def _inside(data: object, kind: type[Cell], *path: str) -> Iterator[Candidate]:
    """Yield what may be a cell in data, at any depth."""
    name = "/".join(filter(None, path))
    if isinstance(data, Call):
        data = _by_name(data, kind)
    if dialect := _dialect_of(data, kind):
        yield Candidate(name, dialect, data)
    elif isinstance(data, Named):
        yield from _inside(data.value, kind, name, data.name)
    elif data is REPEATED:  # a cell may be hidden there
        raise GenotypeError(f"{name} {REPEATED.reason}")
    elif isinstance(data, Unread) and data.name:
        yield Candidate(name, "", data.name)
    elif isinstance(data, str) and re.search(r"\w\s*\(|[({]\s*['\"({\[]", data):
        found, _ = _found(data, kind)
        for number, each in enumerate(found, start=1):
            inner = each.name or (str(number) if len(found) > 1 else "")
            yield each._replace(name="/".join(filter(None, (name, inner))))
    elif isinstance(data, Mapping):
        for key, value in data.items():
            placed = isinstance(data, Call) and isinstance(key, int)
            yield from _inside(value, kind, name, "" if placed else str(key))
    elif isinstance(data, list | tuple):  # a tuple has what is inside something else
        for number, value in enumerate(data, start=1):
            item = isinstance(data, list) and (isinstance(value, str) or _dialect_of(value, kind))
            yield from _inside(value, kind, name, str(number) if item and name else "")


def _by_name(call: Call, kind: type[Cell]) -> Call:
    """Return a call with names for the arguments in the places of a cell's fields."""
    names = dict[object, str](enumerate(field.name for field in fields(kind)))
    match call.get(0):
        case [[str(), *_] | [[str(), *_], *_], *_] if len(call) >= len(names):
            return Call({names.get(key, key): value for key, value in call.items()})
    return call


def _dialect_of(data: object, kind: type[Cell]) -> str:
    """Return the dialect of what looks like a cell; nothing for other data."""
    if isinstance(data, Mapping):
        values = [data[field.name] for field in fields(kind)[::2] if field.name in data]
        lists = [value for value in values if isinstance(value, list)]
        if isinstance(data, Call) and (lists or any(isinstance(value, Unread) for value in values)):
            return "pt.darts" if any(map(is_nested, lists)) else "original"
        if lists:
            return "json"
        keys = [key for key in data if isinstance(key, str) and kind is Genotype]
        if any(map(EDGE.fullmatch, keys)):
            return "nasbench301"
        if any(re.match("(normal|reduce)(_n[0-9]|/(op|input)_)", key) for key in keys):
            return "mmrazor" if any(isinstance(value, dict) for value in data.values()) else "nni"
    match data:
        case [[_, *_], [_, *_]] if kind is Genotype and all(
            isinstance(pair, list) and [*map(type, pair)] == [int, int]
            for pairs in data
            for pair in pairs
        ):
            return "numbers"
    return ""


def _chosen(found: Sequence[Candidate], name: str, log: bool) -> Candidate:
    """Return the candidate that is meant, or refuse with the names that there are."""
    written = {each.name: each for each in found if each.dialect}
    cells = [
        each if each.dialect else written[each.data]._replace(name=each.name)
        for each in found
        if each.dialect or (each.data in written and not each.name.endswith(each.data))
    ]
    # A cell that code puts together, from variables, is no candidate where another is written out.
    cells = [each for each in cells if unread(each.data) in (None, REPEATED)] or cells
    names = [each.name or str(number) for number, each in enumerate(cells, start=1)]
    there = ", ".join(names[:12])[:300] + ", ..." * (len(names) > 12)
    if name:
        low = f"/{name}".lower()
        same_name = [each for each in cells if f"/{each.name}".lower() == low]
        ends = same_name or [each for each in cells if f"/{each.name}".lower().endswith(low)]
        if not ends and name.isdecimal() and len(name) < 6:
            ends = cells[int(name) - 1 : int(name)]
        if not (cells := ends):
            raise GenotypeError(f"no cell in it is called {show(name)}; there are {there}.")
    # A cell for each epoch is a log, wherever it is kept.
    last, same = cells[-1], {re.sub("(?i)epoch\\W*[0-9]+", "epoch", each.name) for each in cells}
    if len(cells) > 1 and (log or (len(same) == 1 and last.name)):
        tell(f"cell {len(cells)} of {len(cells)} is taken, the last in the text")
    elif any(each.data != last.data for each in cells):
        one = f"FILE:{names[0]} or --name {names[0]}"
        raise GenotypeError(f"it holds several cells, {there}; name one, as {one}.")
    return last


def _cell(given: Candidate, kind: type[Cell]) -> Cell:
    """Read a candidate's data; those of its whole text are parsed first, strictly."""
    try:
        data = given.data
        if isinstance(data, str):
            data = _PARSERS.get(given.dialect, load_json)(data)
        for key, value in data.items() if isinstance(data, Mapping) else ():
            if place := unread(value):
                raise GenotypeError(f"genotype field {show(key)} {place.reason}")
        if given.dialect in READERS:
            return READERS[given.dialect](data)  # type: ignore[return-value]  # of this kind alone
        return read_fields(data, kind)
    except (ValueError, RecursionError) as error:
        line = f"{given.dialect}: {one_line(error)}"
        for space, sign in OTHER_SPACES.items():
            if re.search(f"unknown operation '({sign})'", line):
                known = line.partition(";")[0]
                line = f"{known}; it is one of {space}, whose cells have no place here."
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
    return WRITERS[dialect](genotype)


SIGNS = {
    "mmrazor": r"\bchosen['\"]?\s*:",
    "nni": r"['\"](normal|reduce)(/|_n[0-9])",
    "pt.darts": r"\w\s*\(\s*(\w{1,40}\s*=)?\s*[\[(]\s*[\[(]\s*[\[(]",
    "original": r"\w\s*\(",
    "naslib": r"[\[(]\s*[\[(]\s*[\[(]\s*[0-9]",
    "json": r"\{",
}
"""What tells the dialect of a text, perhaps malformed, the surest first."""

OTHER_SPACES = {
    "NAS-Bench-201": r"\|\w+~[0-9]\||nor_conv_[0-9]x[0-9]",
    "NAS-Bench-101": r"conv[13]x[13]-bn-relu|maxpool3x3",
    "RobustDARTS's space S4": "noise",
    "NASNet's space": r"(dil_)?conv_[1-9]x1_1x[1-9]|conv_[13]x[13]|(max|avg)_pool_[57]x[57]",
}
"""Spaces whose cells are often met, and their operations, or what their cells look like."""


def recognise(text: str) -> str:
    """Return the dialect that a text, perhaps malformed, looks like; nothing for none.

    Raises GenotypeError for a cell of another space.
    """
    for space in ("NAS-Bench-201", "NAS-Bench-101"):
        if re.search(OTHER_SPACES[space], text):
            raise GenotypeError(f"this is a cell of {space}, another space; it has no place here.")
    return next((dialect for dialect, sign in SIGNS.items() if re.search(sign, text)), "")
