"""Near-duplicates among the rows of a snapshot: routed to cells, compared there, and joined to groups."""
