"""k-means over a snapshot: the start on a sample, exact passes, assignment, and what each cluster is about."""
