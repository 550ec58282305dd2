"""Virtual environments of peers that cannot live beside this project's own packages: made, checked, and asked for versions.

    .venv-peers/openvino   sentence-transformers' OpenVINO backend wants an older transformers and hub client
    .venv-peers/daft       Daft wants an older pyarrow

Each is `requirements-NAME.txt`, complete and pinned, installed after torch, which is this environment's own release.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".venv-peers"
NAMES = ("openvino", "daft")
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
    python = HOME / name / "bin" / "python"
    if not (HOME / name / ".complete").exists():
        raise SystemExit(f"{python.parent.parent.relative_to(ROOT)} is not there; run: python -m benchmarks.peers --install")
    return python


def install(names: Iterable[str] = NAMES) -> None:
    """Make the environments that are missing or whose requirements changed; minutes and a gigabyte each.

    Raises:
        subprocess.CalledProcessError: pip failed; it has said why.
    """
    torch = f"torch=={version('torch').partition('+')[0]}"  # the build is whichever the configured indexes offer
    for name in names:
        requirements = Path(__file__).with_name(f"requirements-{name}.txt")
        stamp = HOME / name / ".complete"
        wanted = f"{torch}\n{requirements.read_text()}"
        if stamp.exists() and stamp.read_text() == wanted:
            continue
        shutil.rmtree(HOME / name, ignore_errors=True)
        # without ensurepip, which Debian's bare python3 lacks: this environment's pip serves the new one
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(HOME / name)], check=True)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(HOME / name / "bin" / "python")]
        subprocess.run([*pip, "install", "-q", torch], check=True)
        subprocess.run([*pip, "install", "-q", "--no-deps", "-r", str(requirements)], check=True)
        stamp.write_text(wanted)


def versions(name: str, packages: Iterable[str]) -> dict[str, str]:
    """Python's and those packages' versions in an environment; packages that are not there are left out."""
    done = subprocess.run(
        [str(python_of(name)), "-c", _VERSIONS, *packages], stdout=subprocess.PIPE, check=True, text=True, cwd=ROOT
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found
