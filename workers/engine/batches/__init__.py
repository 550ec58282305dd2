"""Batches: which sequences are computed together, how many tokens fit the device, and what happens when a batch fails."""
