"""Models that are made for search: heads of sparse vectors, and queries of late interaction."""
