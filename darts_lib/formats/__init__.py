"""Cells and weights in files: our own, and those of other projects.

For whoever comes from another project, or goes to one.
"""
