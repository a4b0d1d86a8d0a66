"""The command `python -m darts_lib.benchmark`."""

import sys

from darts_lib.tools.benchmark import main

if __name__ == "__main__":
    main(sys.argv[1:])
