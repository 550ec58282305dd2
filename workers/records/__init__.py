"""The records that travel between processes."""
