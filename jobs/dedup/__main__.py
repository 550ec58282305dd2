"""`python -m jobs.dedup CONFIG [key=value …]`: the same as `reembed dedup`."""

from __future__ import annotations

import sys

from reembed import run

run(["dedup", *sys.argv[1:]])
