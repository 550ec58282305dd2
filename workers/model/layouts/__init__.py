"""Layouts of late-interaction models: as sentence-transformers 6, PyLate and Stanford write them."""
