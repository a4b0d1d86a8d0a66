"""The command `python -m darts_lib.expected_runs`."""

from darts_lib.tools.expected_runs import main

if __name__ == "__main__":
    main()
