"""Packed batches, attention and linear layers; and attention in C."""
