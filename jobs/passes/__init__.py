"""Jobs over the vectors of a snapshot: passes, their journal, and the life of a derived run."""
