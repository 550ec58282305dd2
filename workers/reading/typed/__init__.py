"""Values without a type of their own (JSON, CSV cells, folder names) under a type that was inferred or stated."""
