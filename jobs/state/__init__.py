"""What storage holds of a run: its record, manifest, receipts, quarantine, and CURRENT.json."""
