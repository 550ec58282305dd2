"""The README's tables, made from the JSON files in benchmarks/results/: rewrites the marked block in place.

    python -m benchmarks.tables [--check]

--check changes nothing and exits 1 when the block is not what the files say. A kind of result is a function in KINDS, found
by the file's "benchmark"; other files are left alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"
MEASURED_AGAINST = ("reembed", "reembed-int8", "reembed-float32")  # the first that took part is the one to be slower than


def markdown(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A table; the first column is text, the others are figures."""
    lines = [header, ("---", *["---:"] * (len(header) - 1)), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def where(result: Mapping[str, Any]) -> str:
    """On what, and from which commit."""
    machine = result["hardware"]
    short = {"avx512_bf16": "AVX512-BF16", "avx512_vnni": "VNNI", "amx_bf16": "AMX"}
    has = ", ".join(text for flag, text in short.items() if flag in machine["flags"])
    commit = (result["commit"] or "unknown")[:10] + (" with uncommitted changes" if result["dirty"] else "")
    return f"{machine['cores']} cores of {machine['cpu']}{f' ({has})' if has else ''}, commit {commit}"


def peers(result: Mapping[str, Any], source: str) -> str:
    """benchmarks/peers.py: who took how long for the same corpus."""
    rows = result["contestants"]
    base = next((name for name in MEASURED_AGAINST if name in rows and rows[name]["median_seconds"] is not None), None)
    ratios = result["ratios"].get(base, {})
    lines = []
    finished = (item for item in rows.items() if item[1]["median_seconds"] is not None)
    for name, row in sorted(finished, key=lambda item: item[1]["median_seconds"]):
        low, high = row["spread_seconds"]
        overlap = [value for value in row["top10_overlap"] if value is not None]
        lines.append(
            (
                row["title"] + _precision(row),
                f"{row['median_seconds']:.1f} ({low:.1f}-{high:.1f})",
                f"{row['tokens_per_second']:,}",
                f"{ratios[name]['median']:.2f}" if ratios.get(name) else "1" if name == base else "",
                f"{min(row['cosine_min']):.5f}" if None not in row["cosine_min"] else "",
                f"{min(overlap):.3f}" if overlap else "",
            )
        )
    told = (
        f"{result['rows']:,} texts, {result['tokens']:,} tokens, of {result['corpus']}; {result['rounds']} rounds, "
        f"interleaved, file to file, start-up included; {where(result)} ([{source}](benchmarks/results/{source}))"
    )
    slower = f"times slower than {rows[base]['title']}" if base else "times slower"
    header = ("", "seconds: median (min-max)", "real tokens/s", slower, "min cosine to float32", "top-10 overlap")
    return f"{told}:\n\n{markdown(header, lines)}"


def _precision(row: Mapping[str, Any]) -> str:
    """What was in effect, where the title does not say it."""
    precision = str((row["note"] or {}).get("precision") or "").removeprefix("torch.")
    short = {"bfloat16": "bf16", "float32": "float32", "f32": "float32"}.get(precision, precision)
    named = any(word in row["title"] for word in ("bf16", "float32", "f32", "int8"))
    return f" ({short})" if short and not named else ""


def encoder(result: Mapping[str, Any], source: str) -> str:
    """benchmarks/encoder.py: token ids to vectors, and what share of the machine's matrix products that is."""
    rows = sorted(result["contenders"].items(), key=lambda item: item[1]["tokens_per_second"]["median"], reverse=True)
    lines = []
    for name, row in rows:
        rate, share = row["tokens_per_second"], row["share_of_peak"]
        figures = f"{rate['median']:,.0f} ({rate['min']:,.0f}-{rate['max']:,.0f})", f"{share['median']:.0%}"
        lines.append((f"{name} ({row['way']})", *figures, f"{row['cosine_min']:.5f}"))
    peaks = ", ".join(f"{name} {peak['median']:,.0f}" for name, peak in result["peaks_gflops"].items())
    told = (
        f"{result['model']}: {result['rows']:,} texts, {result['tokens']:,} tokens, of {result['corpus']}, "
        f"{result['flop_per_token'] / 1e6:,.1f} MFLOP a token; {result['rounds']} rounds, interleaved; matrix products of "
        f"the same process in GFLOP/s: {peaks}; {_device(result)}{where(result)} ([{source}](benchmarks/results/{source}))"
    )
    header = ("", "real tokens/s: median (min-max)", "share of matrix products", "min cosine to float32")
    return f"{told}:\n\n{markdown(header, lines)}"


def _device(result: Mapping[str, Any]) -> str:
    return "" if result["device"] == "cpu" else f"{result['device']}, "


KINDS: dict[str, Callable[[Mapping[str, Any], str], str]] = {"peers": peers, "encoder": encoder}


def render(folder: Path) -> str:
    """All tables, in the order of KINDS, then by file name."""
    found = [(json.loads(path.read_text()), path.name) for path in sorted(folder.glob("*.json"))]
    return "\n\n".join(
        make(result, name)
        for kind, make in KINDS.items()
        for result, name in found
        if isinstance(result, dict) and result.get("benchmark") == kind
    )


def replaced(text: str, block: str, mark: str = "benchmarks") -> str:
    """The text with what lies between <!-- mark:begin --> and <!-- mark:end --> replaced.

    Raises:
        SystemExit: the marks are not there, once each and in order.
    """
    first, last = f"<!-- {mark}:begin -->", f"<!-- {mark}:end -->"
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end or first in rest or last in after:
        raise SystemExit(f"the text must hold {first} and {last}, once each and in this order")
    return f"{before}{first}\n{block}\n{last}{after}" if block else f"{before}{first}\n{last}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--readme", type=Path, default=README)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    text = options.readme.read_text()
    new = replaced(text, render(options.results))
    if options.check:
        if new != text:
            sys.exit(f"{options.readme.name}: its tables are not what the results say; run: python -m benchmarks.tables")
    elif new != text:
        options.readme.write_text(new)


if __name__ == "__main__":
    main()
