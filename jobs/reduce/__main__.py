"""`python -m jobs.reduce CONFIG [key=value …]`: the same as `reembed reduce`."""

from __future__ import annotations

import sys

from reembed import run

run(["reduce", *sys.argv[1:]])
