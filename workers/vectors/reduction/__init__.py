"""Fewer components: the second moments of a snapshot's vectors, and their projection onto the leading directions."""
