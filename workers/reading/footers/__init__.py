"""Footers of the formats that have one, parsed in an isolated process: imports pyarrow, the standard library, a record."""
