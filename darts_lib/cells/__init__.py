"""Cells as text: the names that stand for them, and the formats of other projects."""
