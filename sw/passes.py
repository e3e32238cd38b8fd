"""Graph-to-graph passes: each takes a graph and gives a new one, and whether anything changed."""

from __future__ import annotations

import dataclasses

import numpy as np

from palquant.sw.graph import Graph, Node, Permute


def identity_permutations(graph: Graph) -> tuple[Graph, bool]:
    """Replace every channel permutation by the identity; all other operations stay.

    The result computes something else, but with exactly the same work: the difference in cycles
    is what the shuffles cost.
    """
    nodes: list[Node] = []
    changed = False
    for node in graph:
        if isinstance(node, Permute):
            identity = np.arange(len(node.permutation))
            changed |= not np.array_equal(node.permutation, identity)
            node = dataclasses.replace(node, permutation=identity)
        nodes.append(node)
    return Graph(nodes, dict(graph.metadata), graph.host), changed
