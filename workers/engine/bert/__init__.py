"""BERT-like models on a CPU: their weights, and encoder layers of our own."""
