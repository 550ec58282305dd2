"""Attention, linear layers and packed batches, and the compiled kernel."""
