"""A cell in the text format of another project, which `formats.dialects` reads and writes.

python -m darts_lib.dialects convert genotype.json --to mmrazor
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from darts_lib.engine.refusals import one_line
from darts_lib.formats.cell_choice import CELLS
from darts_lib.formats.dialects import DIALECTS, WRITTEN, read, write
from darts_lib.genotype import GenotypeError


def main(arguments: Sequence[str]) -> None:
    """Print a cell in another dialect; a bad file gives one line on stderr and exit status 1."""
    parser = argparse.ArgumentParser(prog="python -m darts_lib.dialects", description=main.__doc__)
    commands = parser.add_subparsers(required=True)
    convert = commands.add_parser("convert", help="read CELL and print it in another dialect")
    convert.add_argument(
        "cell", metavar="CELL", help="a file, a search's run folder, a published name or random"
    )
    convert.add_argument("--to", required=True, help=f"one of {', '.join(WRITTEN)}")
    convert.add_argument(
        "--from", dest="source", default="", choices=DIALECTS, help="default: recognised"
    )
    given = parser.parse_args(arguments)
    cells = replace(CELLS, read=partial(read, dialect=given.source))
    try:
        print(write(cells.find(given.cell), given.to))
    except GenotypeError as error:
        parser.exit(1, one_line(error) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
