"""The driver process: the lock on its output, signal handling, and checks before anything is started."""
