"""Reading what is published: audit, search, samples."""
