"""Tries each reader of docs/readers.md in a virtual environment of its own, on every form of the vectors. Prints JSON.

    python -m tests.readers FOLDER [--only Spark,Daft] > results.json

FOLDER keeps the environments (some 6 GB) for the next call. Spark needs Java 17 or later. A reader passes a variant if it
finds every row, with its section and with each component equal; else the last line of its error, or what differs, is told.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

from tests.readers.catalogue import READERS, Reader, example
from tests.readers.samples import VARIANTS, Rows, expected, make

SECONDS = 1200  # for one reader and all variants; a JVM starts slowly on a busy machine
_RUN = """
import importlib.metadata, json, os, sys, tempfile
task = json.load(sys.stdin)
def plain(cell):
    return cell.item() if hasattr(cell, "item") else cell
told = {"version": importlib.metadata.version(task["package"]), "variants": {}}
for name, folder in task["folders"].items():
    names = {"folder": folder}
    os.chdir(tempfile.mkdtemp(dir=os.environ["HOME"]))
    try:
        exec(task["example"], names)
        exec(task["rows"], names)
        rows = [[id_, section, [plain(cell) for cell in vector]] for id_, section, vector in names["rows"]]
        told["variants"][name] = json.loads(json.dumps({"rows": rows}))
    except BaseException as error:
        told["variants"][name] = {"error": f"{type(error).__name__}: {error}"}
    with open(task["answer"], "w") as sink:
        json.dump(told, sink)
"""


COLUMNS = {
    "float32": "float32, plain",
    "float32 byte_stream_split": "float32, split",
    "float16": "float16, plain",
    "float16 byte_stream_split": "float16, split",
    "int8": "int8",
    "binary": "binary",
    "empty section": "partition value ''",
}


def environment(folder: Path, reader: Reader) -> Path:
    """The Python of the reader's environment, made if it is not there."""
    name = "".join(char if char.isalnum() else "-" for char in f"{reader.section} {reader.needs[0]}").lower()
    python = folder / name / "bin" / "python"
    if not python.exists():
        venv.create(folder / name, with_pip=True)
        subprocess.run([python, "-m", "pip", "-q", "install", *reader.needs], check=True)
    return python


def attempt(python: Path, reader: Reader, folders: dict[str, Path]) -> dict[str, Any]:
    """`version`, and by variant `rows` or `error`; what a variant that ended the process leaves out is not there."""
    with tempfile.TemporaryDirectory() as work:
        answer = Path(work) / "answer.json"
        task = {"package": reader.package, "example": example(reader.section), "rows": reader.rows, "answer": str(answer)}
        task["folders"] = {name: str(folder) for name, folder in folders.items()}
        environ = os.environ | {"HOME": work, "SPARK_LOCAL_IP": "127.0.0.1"}
        call = [str(python), "-c", _RUN]
        ended = subprocess.run(
            call, cwd=work, env=environ, capture_output=True, input=json.dumps(task), text=True, timeout=SECONDS, check=False
        )
        if not answer.exists():
            raise SystemExit(f"{reader.section}: exit status {ended.returncode}\n{ended.stderr[-2000:]}")
        told: dict[str, Any] = json.loads(answer.read_text())
        return told


def cause(error: str) -> str:
    """The line of a long error that names it: a JVM's has hundreds."""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    named = [line for line in lines if "Unsupported" in line or "PARQUET_TYPE" in line or "DB::Exception" in line]
    return (named or lines)[0][:300]


def difference(told: list[Any], wanted: Rows) -> str:
    """The first thing that is not as it should be; '' for none."""
    found = {row[0]: row for row in told}
    if len(told) != len(wanted) or found.keys() != wanted.keys():
        return f"{len(told)} rows, {len(wanted)} are there"
    for id_, (_, cells) in wanted.items():
        if [float(cell) for cell in found[id_][2]] != [float(cell) for cell in cells]:
            return f"{id_}: {found[id_][2][:2]}… where {cells[:2]}… is stored"
    sections = sorted(
        {f"{section!r} as {found[id_][1]!r}" for id_, (section, _) in wanted.items() if _cell(found[id_][1]) != section}
    )
    return f"sections: {', '.join(sections)}" if sections else ""


def outcome(told: dict[str, Any], variant: str) -> str:
    """`ok`, or what is wrong."""
    if "rows" in told:
        return difference(told["rows"], expected(variant)) or "ok"
    return cause(told.get("error", "the process ended without a word"))


def _cell(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def table(results: dict[str, Any]) -> str:
    """The table of docs/readers.md."""
    lines = ["| reader | " + " | ".join(COLUMNS.values()) + " |", "| --- |" + " --- |" * len(COLUMNS)]
    for result in results["results"]:
        cells = ["yes" if result["variants"][name] == "ok" else "no" for name in COLUMNS]
        package = "" if result["package"] in result["reader"].lower() else f"{result['package']} "
        lines.append(f"| {result['reader']} ({package}{result['version']}) | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="sections of docs/readers.md, with commas")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as root:
        names = args.variants.split(",")
        folders = {name: make(Path(root) / name.replace(" ", "-"), name) for name in names}
        for reader in READERS:
            if args.only and reader.section not in args.only.split(","):
                continue
            python = environment(args.folder.resolve(), reader)
            told = attempt(python, reader, folders)
            result: dict[str, Any] = {"reader": reader.section, "package": reader.package, "version": told["version"]}
            result["variants"] = {name: outcome(told["variants"].get(name, {}), name) for name in names}
            results.append(result)
            for name, found in result["variants"].items():
                print(reader.section, told["version"], name, found, sep=" | ", file=sys.stderr)
    print(json.dumps({"benchmark": "readers", "python": sys.version.split()[0], "results": results}, indent=1))


if __name__ == "__main__":
    main()
