"""The Triton kernels compiled for an H100 or H200 (sm_90), on any machine: registers, spills, width of memory accesses.

    python -m benchmarks.triton_kernels [--capability 90] [--out FILE]

Needs Triton alone (`pip install --no-deps --target FOLDER triton==3.6.0`, with FOLDER in PYTHONPATH) beside torch: its wheel
brings the assembler and the disassembler of CUDA. No GPU and no driver. Exit status 1 if a kernel spills registers.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workers.engine.kernels import triton_rows as rows
from workers.engine.kernels.float8 import LARGEST, LEAST_REACH

ALIGNED = [["tt.divisibility", 16]]  # what the launcher tells the compiler of PyTorch's allocations
MODELS = {"MiniLM": (384, 1536), "bert-base": (768, 3072), "bert-large": (1024, 4096)}
HALF, BRAIN, CODE = "*fp16", "*bf16", "*fp8e4nv"


@dataclass(frozen=True)
class Case:
    """One kernel at one size: the types of its arguments, its constants, its warps."""

    kernel: Any
    name: str
    pointers: dict[str, str]
    constants: dict[str, Any]
    warps: int


@dataclass(frozen=True)
class Built:
    """What the assembler made of it."""

    name: str
    width: int
    warps: int
    registers: int
    spilled: int  # instructions that move registers to local memory or back
    shared_bytes: int
    loads: dict[str, int]  # bits of an access -> instructions
    stores: dict[str, int]
    converts_float8: bool
    seconds: float


def cases() -> Iterator[Case]:
    """Every kernel at the sizes of MiniLM, bert-base and bert-large."""
    for width, inner in MODELS.values():
        block, warps = rows.block_of(width)
        norm = {"H": width, "BLOCK": block, "EPS": 1e-12}
        inputs, norms = ("x", "bias", "residual"), ("weight", "shift", "out")
        half = dict.fromkeys((*inputs, *norms, "codes", "scales"), HALF)
        plain = {**norm, "CODES": False, "MOST": LARGEST, "LEAST": LEAST_REACH}
        yield Case(rows._add_norm_kernel, "add_norm", half, plain, warps)
        coded = {**dict.fromkeys((*inputs, *norms), BRAIN), "codes": CODE, "scales": "*fp32"}
        yield Case(rows._add_norm_kernel, "add_norm_codes", coded, {**plain, "CODES": True}, warps)
        tables = {"ids": "*i64", "places": "*i64", **dict.fromkeys(("words", "positions", *norms), HALF)}
        yield Case(rows._embed_norm_kernel, "embed_norm", tables, norm, warps)
        for size, activation in ((width, "none"), (inner, "gelu")):
            block, many = rows.block_of(size)
            constants = {"H": size, "BLOCK": block, "ACTIVATION": activation, "MOST": LARGEST, "LEAST": LEAST_REACH}
            yield Case(
                rows._codes_kernel, f"codes {activation}", {"x": BRAIN, "codes": CODE, "scales": "*fp32"}, constants, many
            )
        segments = {"states": HALF, "starts": "*i64", "ends": "*i64", "out": "*fp32"}
        yield Case(
            rows._segment_mean_kernel, "segment_mean", segments,
            {"H": width, "ROWS": rows._SEGMENT_ROWS, "COLUMNS": rows._SEGMENT_COLUMNS}, rows.SEGMENT_WARPS,
        )  # fmt: skip


def build(case: Case, capability: int) -> Built:
    """Compile for a GPU of this compute capability (90: 9.0) and read the machine code."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = {**case.pointers, **dict.fromkeys(case.constants, "constexpr")}
    attributes = {(place,): ALIGNED for place, name in enumerate(case.pointers) if name not in ("ids", "places")}
    began = time.perf_counter()
    source = ASTSource(fn=case.kernel, signature=signature, constexprs=case.constants, attrs=attributes)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": case.warps})
    seconds = time.perf_counter() - began
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        usage, code = (
            subprocess.run([tool, option, file.name], capture_output=True, text=True, check=True).stdout
            for option in ("-res-usage", "-sass")
        )
    registers, shared = (
        int(found[1]) for found in (re.search(rf"{key}:(\d+)", usage) for key in ("REG", "SHARED")) if found
    )
    return Built(
        case.name, case.constants["H"], case.warps, registers, len(re.findall(r"\b(?:LDL|STL)\b", code)), shared,
        _widths("LDG", code), _widths("STG", code), "E4M3" in code, round(seconds, 2),
    )  # fmt: skip


def _widths(instruction: str, code: str) -> dict[str, int]:
    """Bits of an access -> how many instructions of this kind have it."""
    found: dict[str, int] = {}
    for suffixes in re.findall(rf"\b{instruction}\.E(\S*)", code):
        bits = next((bits for bits in ("128", "64", "16", "8") if re.search(rf"\.[US]?{bits}\b", suffixes)), "32")
        found[bits] = found.get(bits, 0) + 1
    return dict(sorted(found.items(), key=lambda item: -int(item[0])))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capability", type=int, default=90, help="compute capability without its dot")
    parser.add_argument("--out", type=Path, help="JSON")
    options = parser.parse_args()
    if rows.why_absent is not None:
        sys.exit(rows.why_absent)
    built = []
    print(
        f"{'kernel':16} {'width':>5} {'warps':>5} {'registers':>9} {'spilled':>7} {'shared':>6}  loads, stores (bits: count)"
    )
    for case in cases():
        one = build(case, options.capability)
        built.append(one)
        accesses = f"{_shown(one.loads)}; {_shown(one.stores)}{'; converts to e4m3' if one.converts_float8 else ''}"
        print(
            f"{one.name:16} {one.width:5} {one.warps:5} {one.registers:9} {one.spilled:7} {one.shared_bytes:6}  {accesses}"
        )
    if options.out:
        options.out.write_text(json.dumps([asdict(one) for one in built], indent=1) + "\n")
    return int(any(one.spilled for one in built))


def _shown(widths: dict[str, int]) -> str:
    return " ".join(f"{bits}:{count}" for bits, count in widths.items())


if __name__ == "__main__":
    sys.exit(main())
