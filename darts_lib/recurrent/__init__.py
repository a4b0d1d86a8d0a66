"""Recurrent cells: the same names as one floor up, for text (paper, sections 3.1.2 and 3.3).

For whoever has read the method for images; what differs is the cell and the text.
"""

from darts_lib.recurrent.fused import FusedSearchCell
from darts_lib.recurrent.genotype import PUBLISHED
from darts_lib.recurrent.network import DerivedCell, LanguageModel, derived_network
from darts_lib.recurrent.relaxation import FUNCTIONS, SearchCell, initial_alphas, masked
from darts_lib.recurrent.search_space import INPUTS, KEPT, KIND, NODES, PRIMITIVES

__all__ = [
    "FUNCTIONS",
    "INPUTS",
    "KEPT",
    "KIND",
    "NODES",
    "PRIMITIVES",
    "PUBLISHED",
    "DerivedCell",
    "FusedSearchCell",
    "LanguageModel",
    "SearchCell",
    "derived_network",
    "initial_alphas",
    "masked",
]
