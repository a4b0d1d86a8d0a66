"""What a recurrent cell can be: activations on the graph of `darts_lib.search_space`.

State 0 is made of the input word and the hidden state before it: one input, where a convolutional
cell has two. Each node of a derived cell reads one earlier state; in the search it reads all:

    s_i = sum_{j < i} sum_o softmax(alpha_ij)_o  mixed_o(s_j)                 paper, equation 2

Source: DARTS paper, sections 2.1 and 3.1.2.
"""

PRIMITIVES = ("none", "tanh", "relu", "sigmoid", "identity")
"""The candidate activations of an edge, in the order of alpha's columns."""

ACTIVATIONS = PRIMITIVES[1:]
"""What an edge of a derived cell may be: every primitive but `none`."""

INPUTS = 1
"""State 0 alone is no node: `edges(NODES, INPUTS)` are the 36 edges of the paper's cell."""

KEPT = 1
"""Edges that each node of a derived cell keeps."""

NODES = 8
"""Nodes that the paper's search chooses."""

KIND = "recurrent"
"""The one kind of cell: the key of the alphas."""
