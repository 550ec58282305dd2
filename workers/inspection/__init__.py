"""Source bytes examined without reading an object whole; in an isolated process where they may be hostile."""
