"""BERT-like models: their weights, and encoder layers of our own, on CPUs and on CUDA."""
