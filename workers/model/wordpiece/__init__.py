"""WordPiece of BERT's tokenizers in C: Arrow's buffers in, flat ids out. Proved against `tokenizers` when it is loaded."""
