"""Commands about many runs or the project itself: benchmark, records, checkpoints, sweep.

For whoever measures, keeps or compares runs.
"""
