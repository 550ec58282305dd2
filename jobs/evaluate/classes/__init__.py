"""Task classify: what it reads and refuses, what it has found as facts and tables, and its sections of the report."""
