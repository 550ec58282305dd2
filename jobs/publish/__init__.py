"""Publication: making a finished run the current snapshot, opening it, and deleting old snapshots."""
