"""What a recurrent cell can be: activations, the cell graph, and how many cells there are.

State 0 is made of the input word and the hidden state before it. Each node reads one earlier
state; in the search it reads all of them:

    s_i = sum_{j < i} sum_o softmax(alpha_ij)_o  mixed_o(s_j)                 paper, equation 2

Source: DARTS paper, sections 2.1 and 3.1.2.
"""

from math import prod

PRIMITIVES = ("none", "tanh", "relu", "sigmoid", "identity")
"""The candidate activations of an edge, in the order of alpha's columns."""

ACTIVATIONS = PRIMITIVES[1:]
"""What an edge of a derived cell may be: every primitive but `none`."""

NODES = 8
"""Nodes that the paper's search chooses; state 0 is not chosen."""

KIND = "recurrent"
"""The one kind of cell: the key of the alphas."""


def edges(nodes: int = NODES) -> tuple[tuple[int, int], ...]:
    """Return (source, target) of every edge, in the order of alpha's rows: 36 for eight nodes.

    State 0 is the first; states 1 to `nodes` are the nodes. Each node hears all states before it.
    """
    if nodes < 1:
        raise ValueError(f"nodes must be at least 1, not {nodes}: a cell without nodes is empty.")
    return tuple((source, target) for target in range(1, nodes + 1) for source in range(target))


def row_offset(target: int) -> int:
    """Return alpha's first row for the edges into node `target`: 0, 1, 3, 6 for nodes 1 to 4."""
    return target * (target - 1) // 2


def nodes_of(edge_count: int) -> int:
    """Return the number of nodes whose cell has `edge_count` edges (36 edges: 8 nodes)."""
    nodes = 1
    while row_offset(nodes + 1) < edge_count:
        nodes += 1
    if row_offset(nodes + 1) != edge_count:
        near = [row_offset(nodes), row_offset(nodes + 1)]
        raise ValueError(f"no cell has {edge_count} edges; the nearest sizes have {near}.")
    return nodes


def count_cells(nodes: int = NODES) -> int:
    """Count the discrete cells: each node takes one source and one of four activations.

    8! 4^8 = 2,642,411,520 for eight nodes.
    """
    return prod(target * len(ACTIVATIONS) for target in range(1, nodes + 1))
