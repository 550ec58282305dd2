"""`python -m jobs.evaluate CONFIG [key=value …]`: the same as `reembed evaluate`."""

from __future__ import annotations

import sys

from reembed import run

run(["evaluate", *sys.argv[1:]])
