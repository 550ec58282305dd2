"""Where chunks of a text lie: borders of sentences and Markdown blocks, spans of tokens, windows over long documents."""
