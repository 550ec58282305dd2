"""The model as files: where they are, what they say about embedding, and the tokenizer. No torch."""
