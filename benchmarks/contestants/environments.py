"""Virtual environments of peers that cannot live beside this project's own packages: made, checked, and asked for versions.

    .venv-peers/openvino         sentence-transformers' OpenVINO backend wants an older transformers and hub client
    .venv-peers/daft             Daft wants an older pyarrow
    .venv-peers/fastembed        an older hub client; no torch
    .venv-peers/embed-anything   an older ONNX Runtime; no torch
    .venv-peers/vectors          peers of the jobs over vectors: MTEB, BERTopic, SemHash, torchmetrics and torcheval

Each is `requirements-NAME.txt`, complete and pinned; torch comes first where NAMES says so, of this environment's release.
The variable REEMBED_PEERS names another folder than .venv-peers, so that several checkouts share what is installed and
exported. What could not be installed is remembered with its reason; a run names the peers that it leaves out for it.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = Path(os.environ.get("REEMBED_PEERS", ROOT / ".venv-peers"))
NAMES = {"openvino": True, "daft": True, "fastembed": False, "embed-anything": False, "vectors": True}
"""Environment -> whether it has torch."""
_VERSIONS = """
import importlib.metadata, json, platform, sys
found = {"python": platform.python_version()}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def python_of(name: str) -> Path:
    """The interpreter of an environment; "" is the one that runs this.

    Raises:
        SystemExit: it was not installed.
    """
    if not name:
        return Path(sys.executable)
    if reason := missing(name):
        raise SystemExit(reason)
    return HOME / name / "bin" / "python"


def missing(name: str) -> str | None:
    """Why an environment cannot be used; None: it can."""
    if not name or (HOME / name / ".complete").exists():
        return None
    failed = HOME / f"{name}.failed"
    if failed.exists():
        return f"{name} could not be installed: {failed.read_text()}"
    return f"{HOME / name} is not there; run: python -m benchmarks.peers --install"


def install(names: Iterable[str] = tuple(NAMES)) -> list[str]:
    """Make the environments that are missing or whose requirements changed; minutes, and a gigabyte each with torch.

    Returns those that could not be made, each with pip's reason.
    """
    failures = []
    for name in names:
        try:
            _install(name)
        except subprocess.CalledProcessError as error:
            said = [line for line in (error.stderr or "").splitlines() if line.startswith("ERROR")]
            reason = " ".join(said)[:500] or f"exit {error.returncode} of {' '.join(error.cmd)[:200]}"
            (HOME / f"{name}.failed").write_text(reason)
            failures.append(f"{name}: {reason}")
    return failures


def _install(name: str) -> None:
    # the build is whichever the configured indexes offer
    torch = [f"torch=={version('torch').partition('+')[0]}"] if NAMES[name] else []
    requirements = Path(__file__).with_name(f"requirements-{name}.txt")
    stamp = HOME / name / ".complete"
    wanted = "\n".join([*torch, requirements.read_text()])
    if stamp.exists() and stamp.read_text() == wanted:
        return
    shutil.rmtree(HOME / name, ignore_errors=True)
    (HOME / f"{name}.failed").unlink(missing_ok=True)
    # without ensurepip, which Debian's bare python3 lacks: this environment's pip serves the new one
    run = functools.partial(subprocess.run, check=True, stderr=subprocess.PIPE, text=True)
    run([sys.executable, "-m", "venv", "--without-pip", str(HOME / name)])
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(HOME / name / "bin" / "python")]
    if torch:
        run([*pip, "install", "-q", *torch])
    run([*pip, "install", "-q", "--no-deps", "-r", str(requirements)])
    stamp.write_text(wanted)


def versions(name: str, packages: Iterable[str]) -> dict[str, str]:
    """Python's and those packages' versions in an environment; packages that are not there are left out."""
    done = subprocess.run(
        [str(python_of(name)), "-c", _VERSIONS, *packages], stdout=subprocess.PIPE, check=True, text=True, cwd=ROOT
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found
