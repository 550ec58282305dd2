"""What an evaluation is given beside the snapshot: files of queries, judgements and pairs, and texts to embed."""
