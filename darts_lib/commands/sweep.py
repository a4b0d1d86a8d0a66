"""The command `python -m darts_lib.sweep`."""

import sys

from darts_lib.engine.command_line import refused_in_one_line
from darts_lib.tools.sweep import main

if __name__ == "__main__":
    with refused_in_one_line():
        sys.exit(main(sys.argv[1:]))
