"""The command `python -m darts_lib.dialects`."""

import sys

from darts_lib.formats.dialects import main

if __name__ == "__main__":
    main(sys.argv[1:])
