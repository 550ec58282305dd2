"""Vector stores that `reembed load` keeps in step with the snapshots: one module a store, and what they share."""
