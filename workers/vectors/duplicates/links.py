"""Links: union-find over the numbers 0 to n - 1, many links at a time. The root of a set is its smallest number."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


class Links:
    """Sets of numbers, at first each for itself."""

    def __init__(self, count: int) -> None:
        self._parent: Numbers = np.arange(count, dtype=np.int64)

    def roots(self, of: Numbers) -> Numbers:
        """The smallest number of each one's set."""
        found = self._parent[of]
        while True:
            above = self._parent[found]
            if (above == found).all():
                self._parent[of] = found
                return found
            found = above

    def join(self, left: Numbers, right: Numbers) -> None:
        """Join the sets of left[i] and right[i], for every i."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        ends = np.stack([self.roots(left), self.roots(right)])
        ends = ends[:, ends[0] != ends[1]]
        if not ends.size:
            return
        nodes, at = np.unique(ends, return_inverse=True)
        rows, columns = at.reshape(2, -1)
        graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(len(nodes), len(nodes)))
        _, label = connected_components(graph, directed=False)
        _, first = np.unique(label, return_index=True)  # nodes ascend: the first of a label is its smallest
        self._parent[nodes] = nodes[first[label]]
