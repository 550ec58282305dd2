"""BERT encoder layers of our own: weights and fused forward pass."""
