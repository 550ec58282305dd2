"""Which model exactly, what its own files ask for, and its tokenizer."""
