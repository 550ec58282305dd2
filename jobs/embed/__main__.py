"""`python -m jobs.embed CONFIG [key=value …]`: the same as `reembed embed`."""

from __future__ import annotations

import sys

from jobs.cli import run

run(["embed", *sys.argv[1:]])
