"""Tables out: the published snapshot registered as a table of its own parts. One module a format."""
