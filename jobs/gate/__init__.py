"""May this run be published? Pure checks, and the figures they compare."""
