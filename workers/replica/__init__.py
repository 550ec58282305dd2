"""A replica: one process with one model, in which reading, tokenising, encoding and writing overlap."""
