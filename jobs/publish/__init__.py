"""What readers see: publishing a run, opening the published snapshot, deleting old ones."""
