"""`python -m jobs.index CONFIG [key=value …]`: the same as `reembed index`."""

from __future__ import annotations

import sys

from reembed import run

run(["index", *sys.argv[1:]])
