"""Convolutions, averages and precision that torch does not have as fast or as exact.

For whoever asks why a step is quick; the method reads the same without them.
"""
