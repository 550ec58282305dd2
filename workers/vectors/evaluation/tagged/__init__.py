"""Tagged words: snapshots of token vectors seen as one row a word, so that a probe of their tags can be fitted."""
