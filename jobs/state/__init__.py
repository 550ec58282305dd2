"""A run's state on storage: its record, manifest, receipts, quarantine, and CURRENT.json."""
