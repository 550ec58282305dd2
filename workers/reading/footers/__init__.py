"""Footers of the formats that have one. Parsed in an isolated process: these modules import pyarrow and the standard
library alone."""
