"""Tables as a corpus: the snapshot that a run is pinned to, its live data files and deleted rows. One module a format."""
