"""One query through a BERT-like model in NumPy. No torch: its import takes longer than all else that a search does."""
