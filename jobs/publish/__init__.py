"""Publication: a finished run becomes the current snapshot, is opened, carried over into the next one, and deleted."""
