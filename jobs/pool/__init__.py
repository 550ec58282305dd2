"""Replicas on Ray. The only package that imports ray.

Ray decides when it is imported whether it presents a token to a cluster, so the decision stands here: this file runs before
any module below it imports ray. A token that is at hand is presented. A cluster without authentication ignores it; a cluster
with authentication would let a driver without a token wait for 20 s and then report that the cluster cannot be reached.
"""

import os
from pathlib import Path

_TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")

if any(map(os.environ.get, _TOKENS)) or Path("~/.ray/auth_token").expanduser().exists():
    os.environ.setdefault("RAY_AUTH_MODE", "token")
