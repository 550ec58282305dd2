"""`python -m jobs.embed CONFIG [key=value …]`: the same as `reembed embed`."""

from __future__ import annotations

import sys

from reembed import run

run(["embed", *sys.argv[1:]])
