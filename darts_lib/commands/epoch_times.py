"""The command `python -m darts_lib.epoch_times`."""

import sys

from darts_lib.tools.epoch_times import main

if __name__ == "__main__":
    main(sys.argv[1:])
