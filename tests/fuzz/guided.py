"""Coverage-guided fuzzing (atheris) of the JSONL, CSV and text readers and of the configuration's loader.

    python -m pip install -e '.[fuzz]'
    python -m tests.fuzz.guided --seconds 300 [--target jsonl] [--seed 1] [--keep FOLDER]

Each target runs in a process of its own for its share of the time, beginning with tests/fuzz/corpus/<target>/. What breaks a
property (tests/fuzz/properties.py) ends it with a file `crash-…` in --keep; `--replay FILE --target NAME` runs that again.
Inputs worth keeping go to tests/fuzz/corpus/, which `make test` replays. Exit status 1 when something broke.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TARGETS = ("jsonl", "csv", "text", "config")
CORPUS = Path(__file__).parent / "corpus"
LARGEST = 8192  # bytes of an input: records, quotes and borders need no more


def fuzz(target: str, flags: list[str]) -> None:
    """In a process of its own: atheris never returns."""
    import atheris

    with atheris.instrument_imports(include=["workers", "jobs"]):
        from tests.fuzz.properties import CHECKS
    atheris.Setup([sys.argv[0], *flags], CHECKS[target])
    atheris.Fuzz()


def run(target: str, seconds: int, seed: int, keep: Path) -> tuple[bool, str]:
    """Whether everything held, and a line that says how much was tried."""
    found = keep / target
    found.mkdir(parents=True, exist_ok=True)
    flags = [f"-max_total_time={seconds}", f"-seed={seed}", f"-max_len={LARGEST}", "-timeout=30", "-rss_limit_mb=4096"]
    flags += ["-print_final_stats=1", f"-artifact_prefix={found}/", str(found), str(CORPUS / target)]
    began = time.monotonic()
    command = [sys.executable, "-m", "tests.fuzz.guided", "--one", target, *flags]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    told = done.stderr
    (found / "log.txt").write_text(told)
    runs = re.search(r"stat::number_of_executed_units: (\d+)", told)
    covered = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", told)
    held = done.returncode == 0
    line = f"{target}: {runs[1] if runs else '?'} inputs in {time.monotonic() - began:.0f} s"
    if covered:
        line += f", coverage {covered[0][0]} -> {covered[-1][0]}, {covered[-1][2]} inputs kept"
    broken = re.search(r"Uncaught Python exception: ===\n(.*(?:\n.*){0,3})", told)
    crash = re.search(r"Test unit written to (\S+)", told)
    return held, line if held else f"{line}\n  BROKEN: {broken[1] if broken else told[-500:]}\n  {crash[1] if crash else ''}"


def main() -> int:
    if sys.argv[1:2] == ["--one"]:
        fuzz(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=60, help="for all targets together")
    parser.add_argument("--target", choices=TARGETS, help="this one only")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder for what is found; a temporary one when left out")
    parser.add_argument("--replay", type=Path, help="one input, through --target, and no fuzzing")
    args = parser.parse_args()
    if args.replay:
        from tests.fuzz.properties import CHECKS

        CHECKS[args.target](args.replay.read_bytes())
        return 0
    targets = [args.target] if args.target else list(TARGETS)
    keep = args.keep or Path(tempfile.mkdtemp(prefix="guided-"))
    results = [run(target, max(1, args.seconds // len(targets)), args.seed, keep) for target in targets]
    print("\n".join(line for _, line in results))
    print(f"seed {args.seed}; what was found lies in {keep}")
    return 0 if all(held for held, _ in results) else 1


if __name__ == "__main__":
    sys.exit(main())
