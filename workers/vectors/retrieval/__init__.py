"""Exact search for many queries at once as passes over a snapshot, and the measures of a ranking."""
