"""The command `python -m darts_lib.checkpoints`."""

import sys

from darts_lib.tools.checkpoints import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
