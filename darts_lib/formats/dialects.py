"""The text formats in which other projects write a discrete cell: read, write, convert.

original    the original's `Genotype(normal=[...], ...)`; holds any cell
pt.darts    khanrc/pt.darts: the same with an inner list for each node; holds any cell
mmrazor     MMRazor's yaml; two different sources a node, all nodes joined, the search space's
            operations, as many nodes in both cells
nni         NNI's dictionary as JSON; four nodes, all joined, the search space's operations
json        this library's own `genotype.json`; holds any cell

    python -m darts_lib.dialects convert genotype.json --to mmrazor

Nothing in a text is ever run. What MMRazor's and NNI's files look like is in
`cells/dialect_formats.py`.
"""

import argparse
import json
import re
from collections.abc import Callable, Sequence
from functools import partial

from darts_lib.derivation import random_genotype
from darts_lib.engine.refusals import show
from darts_lib.formats.cell_names import find_cell
from darts_lib.formats.dialect_formats import read_mmrazor, read_nni, write_mmrazor, write_nni
from darts_lib.formats.dialect_texts import DialectError, load_json
from darts_lib.genotype import LIMIT, PUBLISHED, Genotype, GenotypeError, literal_fields
from darts_lib.search_space import INPUTS, KINDS

MESSAGE_LIMIT = 400


def read(text: str, dialect: str = "") -> Genotype:
    """Return the cell that a text holds in `dialect`; without one, recognise it from the text.

    Raises DialectError, one line that names the dialect and the line or the field.
    """
    if len(text) > LIMIT:
        raise DialectError(
            f"the text has more than {LIMIT} characters and is no cell; name another file."
        )
    name = dialect or recognise(text)
    reader, _ = _format(name)
    try:
        return reader(text)
    except (ValueError, RecursionError) as error:
        raise DialectError(_one_line(f"{name}: {error}")) from None


def write(genotype: Genotype, dialect: str) -> str:
    """Return the text of a cell in `dialect`, without a line break at its end.

    Raises DialectError, which names the node and the reason, where the dialect has no place for
    the cell.
    """
    _, writer = _format(dialect)
    return writer(genotype)


def recognise(text: str) -> str:
    """Return the dialect that a text looks like; the text may still be malformed.

    Raises DialectError where it looks like none.
    """
    start = text.lstrip()
    if start.startswith("Genotype"):
        nested = re.search(r"[\[(]\s*[\[(]\s*[\[(]", text)
        return "pt.darts" if nested else "original"
    if re.search(r"\bchosen['\"]?\s*:", text):
        return "mmrazor"
    if start.startswith("{"):
        return "nni" if re.search(r'"(normal|reduce)(/|_n[0-9])', text) else "json"
    raise DialectError(
        f"line 1: {show(start)} is the start of no known dialect; name one of "
        f"{', '.join(DIALECTS)}."
    )


def _format(name: str) -> tuple[Callable[[str], Genotype], Callable[[Genotype], str]]:
    if name not in _FORMATS:
        raise DialectError(f"unknown dialect {show(name)}; use one of {', '.join(DIALECTS)}.")
    return _FORMATS[name]


def _one_line(message: str) -> str:
    """Return the message on one line; a file's values may bring line breaks and great length."""
    line = " ".join(message.split())
    return line if len(line) <= MESSAGE_LIMIT else line[:MESSAGE_LIMIT] + "..."


def _read_nested(text: str) -> Genotype:
    """Join the inner lists of pt.darts, one a node, into the flat list of the original."""
    values = literal_fields(text)
    for kind in KINDS:
        if kind in values:
            values[kind] = _flat(kind, values[kind])
    return Genotype.from_dict(values)


def _flat(kind: str, nodes: object) -> list[object]:
    if not isinstance(nodes, list | tuple):
        raise DialectError(f"field {kind} is {show(nodes)}; write a list of nodes.")
    for node, pairs in enumerate(nodes, start=INPUTS):
        if not isinstance(pairs, list | tuple) or len(pairs) != 2:
            raise DialectError(
                f"field {kind}, node {node} is {show(pairs)}; write a list of two pairs."
            )
    return [pair for pairs in nodes for pair in pairs]


def _write_nested(genotype: Genotype) -> str:
    parts = []
    for kind in KINDS:
        pairs, concat = genotype.pairs(kind), genotype.concat(kind)
        nodes = [list(pairs[first : first + 2]) for first in range(0, len(pairs), 2)]
        span = range(concat[0], concat[-1] + 1)  # pt.darts writes a range where it can
        parts.append(f"{kind}={nodes!r}")
        parts.append(f"{kind}_concat={span if tuple(span) == concat else list(concat)!r}")
    return f"Genotype({', '.join(parts)})"


def _read_json(text: str) -> Genotype:
    return Genotype.from_dict(load_json(text))


def _write_json(genotype: Genotype) -> str:
    return json.dumps(genotype.to_dict())


_FORMATS: dict[str, tuple[Callable[[str], Genotype], Callable[[Genotype], str]]] = {
    "original": (Genotype.from_text, str),
    "pt.darts": (_read_nested, _write_nested),
    "mmrazor": (read_mmrazor, write_mmrazor),
    "nni": (read_nni, write_nni),
    "json": (_read_json, _write_json),
}

DIALECTS = tuple(_FORMATS)
"""The names of the dialects."""


def main(arguments: Sequence[str]) -> None:
    """Print a cell in another dialect; a bad file gives one line on stderr and exit status 1."""
    parser = argparse.ArgumentParser(prog="python -m darts_lib.dialects", description=main.__doc__)
    commands = parser.add_subparsers(required=True)
    convert = commands.add_parser("convert", help="read CELL and print it in another dialect")
    convert.add_argument(
        "cell", metavar="CELL", help="a file, a search's run folder, a published name or random"
    )
    convert.add_argument("--to", required=True, choices=DIALECTS)
    convert.add_argument(
        "--from", dest="source", default="", choices=DIALECTS, help="default: recognised"
    )
    given = parser.parse_args(arguments)
    reader, draw = partial(read, dialect=given.source), partial(random_genotype, 0)
    try:
        print(write(find_cell(given.cell, reader, PUBLISHED, draw, "genotype"), given.to))
    except GenotypeError as error:
        parser.exit(1, _one_line(str(error)) + "\n")
