"""The command `python -m darts_lib.records`."""

import sys

from darts_lib.tools.records import main

if __name__ == "__main__":
    main(sys.argv[1:])
