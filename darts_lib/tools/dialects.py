"""A cell from any text, or from stored alphas, as text in a dialect of `formats.dialects`.

python -m darts_lib.dialects convert genotype.json --to mmrazor
python -m darts_lib.dialects convert genotypes.py:PC_DARTS --to json
python -m darts_lib.dialects derive alphas.npz
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from darts_lib.derivation import derive
from darts_lib.engine.command_line import path_argument, run_command
from darts_lib.engine.files import read_text
from darts_lib.engine.refusals import one_line
from darts_lib.formats.cell_choice import CELLS
from darts_lib.formats.dialect_texts import load_json
from darts_lib.formats.dialects import DIALECTS, WRITTEN, read, write
from darts_lib.genotype import Genotype, GenotypeError
from darts_lib.search_space import KINDS


def main(arguments: Sequence[str]) -> None:
    """Print a cell; a bad file gives one line on stderr and exit status 2."""
    parser = argparse.ArgumentParser(prog="python -m darts_lib.dialects", description=main.__doc__)
    commands = parser.add_subparsers(required=True)
    convert = commands.add_parser("convert", help="read CELL and print it in another dialect")
    convert.add_argument(
        "cell",
        metavar="CELL",
        help="a file or text with a cell in it, FILE:NAME, a run folder, a published name, random",
    )
    convert.add_argument("--to", required=True, help=f"one of {', '.join(WRITTEN)}")
    convert.add_argument(
        "--from", dest="source", default="", choices=DIALECTS, help="default: recognised"
    )
    convert.add_argument("--name", default="", help="of several cells in the file, this one")
    convert.set_defaults(cell_of=_converted)
    derived = commands.add_parser("derive", help="print the cell of stored alphas")
    derived.add_argument(
        "alphas",
        metavar="ALPHAS",
        type=path_argument,
        help="the tables normal and reduce as .npz or .json",
    )
    derived.add_argument("--to", default="original", help=f"one of {', '.join(WRITTEN)}")
    derived.set_defaults(cell_of=_derived)
    given = parser.parse_args(arguments)
    print(write(given.cell_of(given), given.to))


def _converted(given: argparse.Namespace) -> Genotype:
    cells = replace(CELLS, read=lambda text, name: read(text, given.source, name))
    return cells.find(given.cell, part=given.name)


def _derived(given: argparse.Namespace) -> Genotype:
    """Return the cell of a file's alphas, of the last epoch where it has all of a search's."""
    path = given.alphas / "alphas.npz" if given.alphas.is_dir() else given.alphas
    try:
        alphas = _tables(path)
        for kind, table in alphas.items():
            if getattr(table, "ndim", 0) == 3 and len(table):  # (epochs + 1, edges, primitives)
                print(f"{kind}: table {len(table)} of {len(table)}, the last", file=sys.stderr)
                alphas[kind] = table[-1]
        return derive(alphas)
    except ValueError as error:  # a GenotypeError is one
        raise GenotypeError(f"{path}: {one_line(error)}") from None


def _tables(path: Path) -> dict[str, Any]:
    """Return the tables of a file by kind of cell; `alphas_normal` is `normal`."""
    match path.suffix.lower():
        case ".json":
            tables: dict[str, Any] = load_json(read_text(path))
        case ".npz":
            try:
                with np.load(path, allow_pickle=False) as content:
                    tables = {name: content[name] for name in content.files}
            except OSError:
                raise  # `run_command` tells it
            except Exception:  # objects, another kind of file: each reader has its own complaint
                raise GenotypeError("holds no plain arrays; write it with numpy.savez.") from None
        case _:
            raise GenotypeError("alphas are read from .npz or .json.")
    named: dict[str, Any] = {}
    for name, table in tables.items():
        kind = next((kind for kind in KINDS if name.endswith(f"_{kind}")), name)
        if kind in named:
            raise GenotypeError(f"holds {kind} more than once; keep one.")
        named[kind] = table
    return named


if __name__ == "__main__":
    run_command(main)
