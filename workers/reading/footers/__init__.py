"""Footers of the formats that have one, parsed in an isolated process: imports pyarrow and the standard library alone."""
