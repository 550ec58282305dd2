"""What every driver process has: the lock on its output, signals, and checks before anything starts."""
