"""Programs that read a snapshot: docs/readers.md, tried with real packages."""
