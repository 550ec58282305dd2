"""One process, one model: read, tokenise, encode and write overlap."""
