"""`python -m jobs.cluster CONFIG [key=value …]`: the same as `reembed cluster`."""

from __future__ import annotations

import sys

from reembed import run

run(["cluster", *sys.argv[1:]])
