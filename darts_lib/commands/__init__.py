"""The commands by their names: `python -m darts_lib.sweep` and the like, each in its own file.

This folder is on the path of `darts_lib`, so a command keeps its name wherever its code lies.
"""
