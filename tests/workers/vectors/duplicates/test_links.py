"""Links: union-find, checked against scipy's connected components of all links at once."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from workers.vectors.duplicates.links import Links


def test_sets_are_connected_components_and_their_roots_the_smallest_numbers() -> None:
    random = np.random.default_rng(2)
    ends = random.integers(0, 1000, (2, 700))
    links = Links(1000)
    for at in range(0, 700, 90):
        links.join(ends[0, at : at + 90], ends[1, at : at + 90])
    links.join(ends[0, :0], ends[1, :0])
    _, label = connected_components(coo_array((np.ones(700), ends), shape=(1000, 1000)), directed=False)
    smallest = np.array([np.flatnonzero(label == of)[0] for of in label])
    assert links.roots(np.arange(1000)).tolist() == smallest.tolist()
