"""Commands about many runs or the project itself: benchmark, records, checkpoints, sweep.

For whoever measures, keeps or compares runs. `darts_lib` has this folder on its path, so that
`python -m darts_lib.sweep` and the like are their names.
"""
