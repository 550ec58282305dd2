"""Everything that touches text, tokens, tensors and bytes. Workers do; jobs decide."""

__version__ = "0.1.0"
