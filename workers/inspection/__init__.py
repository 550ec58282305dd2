"""A look into source bytes without reading an object whole, in an isolated process where bytes may be hostile."""
