"""Recurrent cells: the same names as one floor up, for text (paper, sections 3.1.2 and 3.3)."""
