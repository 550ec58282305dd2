"""One module a source format, and what each format can do."""
