"""The tables of README.md and docs/benchmarks.md, made from the JSON files in benchmarks/results/.

    python -m benchmarks.tables [--check]

Each page has one marked block, which is rewritten in place: the full tables in docs/benchmarks.md, the two small ones in
README.md. --check changes nothing and exits 1 if a block differs from the files. A kind of result is a function in
KINDS, found by the file's "benchmark"; other files are left alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.vector_peers import table as vector_table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
Result = Mapping[str, Any]
MEASURED_AGAINST = ("reembed", "reembed-int8", "reembed-float32")  # the first that took part is the one to be slower than


def markdown(header: tuple[str, ...], rows: Sequence[tuple[str, ...]], *, texts: int = 1) -> str:
    """A table; the first columns are text, the others are figures."""
    lines = [header, (*["---"] * texts, *["---:"] * (len(header) - texts)), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def where(result: Result) -> str:
    """On what, and from which commit."""
    commit = (result["commit"] or "unknown")[:10] + (" with uncommitted changes" if result["dirty"] else "")
    return f"{_cores(result)}, commit {commit}"


def _cores(result: Result) -> str:
    machine = result["hardware"]
    short = {"avx512_bf16": "AVX512-BF16", "avx512_vnni": "VNNI", "amx_bf16": "AMX"}
    has = ", ".join(text for flag, text in short.items() if flag in machine["flags"])
    return f"{machine['cores']} cores of {machine['cpu']}{f' ({has})' if has else ''}"


def peers(result: Result, source: str) -> str:
    """benchmarks/peers.py: who took how long for the same corpus."""
    base, ratios = _slower_than(result)
    lines = []
    for name, row in _finished(result):
        overlap = [value for value in row["top10_overlap"] if value is not None]
        lines.append((*_timed(name, row, base, ratios), f"{min(overlap):.3f}" if overlap else ""))
    told = (
        f"{result['rows']:,} texts, {result['tokens']:,} tokens, of {result['corpus']}; {result['rounds']} rounds, "
        f"interleaved, file to file, start-up included; {where(result)} ({_link(source)})"
    )
    return f"{told}:\n\n{markdown((*_peers_header(result, base), 'top-10 overlap'), lines)}{_left_out(result)}"


def _left_out(result: Result) -> str:
    """The peers that could not take part, each with the reason."""
    reasons = [" ".join(str(reason).split()) for reason in result.get("left_out", {}).values()]
    return f"\n\nLeft out: {'; '.join(reasons)}." if reasons else ""


def _finished(result: Result) -> list[tuple[str, Mapping[str, Any]]]:
    """The contestants that came to an end, the fastest first."""
    finished = [item for item in result["contestants"].items() if item[1]["median_seconds"] is not None]
    return sorted(finished, key=lambda item: float(item[1]["median_seconds"]))


def _slower_than(result: Result) -> tuple[str | None, Mapping[str, Any]]:
    """The contestant that the others are compared with, and their ratios to it."""
    finished = dict(_finished(result))
    base = next((name for name in MEASURED_AGAINST if name in finished), None)
    return base, result["ratios"].get(base, {})


def _timed(name: str, row: Mapping[str, Any], base: str | None, ratios: Mapping[str, Any]) -> tuple[str, ...]:
    low, high = row["spread_seconds"]
    return (
        row["title"] + _precision(row),
        f"{row['median_seconds']:.1f} ({low:.1f}-{high:.1f})",
        f"{row['tokens_per_second']:,}",
        f"{ratios[name]['median']:.2f}" if ratios.get(name) else "1" if name == base else "",
        f"{min(row['cosine_min']):.5f}" if None not in row["cosine_min"] else "",
    )


def _peers_header(result: Result, base: str | None) -> tuple[str, ...]:
    slower = f"times slower than {result['contestants'][base]['title']}" if base else "times slower"
    return "", "seconds: median (min-max)", "real tokens/s", slower, "min cosine to float32"


def _precision(row: Mapping[str, Any]) -> str:
    """What was in effect, where the title does not say it."""
    precision = str((row["note"] or {}).get("precision") or "").removeprefix("torch.")
    short = {"bfloat16": "bf16", "float32": "float32", "f32": "float32"}.get(precision, precision)
    named = any(word in row["title"] for word in ("bf16", "float32", "f32", "int8"))
    return f" ({short})" if short and not named else ""


def encoder(result: Result, source: str) -> str:
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
        f"the same process in GFLOP/s: {peaks}; {_device(result)}{where(result)} ({_link(source)})"
    )
    header = ("", "real tokens/s: median (min-max)", "share of matrix products", "min cosine to float32")
    return f"{told}:\n\n{markdown(header, lines)}"


def vector_peers(result: Result, source: str) -> str:
    """benchmarks/vector_peers: the jobs over vectors beside others."""
    table = markdown(vector_table.HEADER, vector_table.rows_of(result), texts=3)
    return f"{vector_table.told(result)}; {where(result)} ({_link(source)}):\n\n{table}{_left_out(result)}"


def _device(result: Result) -> str:
    return "" if result["device"] == "cpu" else f"{result['device']}, "


def _link(source: str) -> str:
    """From docs/."""
    return f"[{source}](../benchmarks/results/{source})"


KINDS: dict[str, Callable[[Result, str], str]] = {"peers": peers, "encoder": encoder, "vector_peers": vector_peers}


def read_results(folder: Path, kind: str) -> list[tuple[Result, str]]:
    """Results of one kind with their files' names, by name."""
    read = [(json.loads(path.read_text()), path.name) for path in sorted(folder.glob("*.json"))]
    return [(result, name) for result, name in read if isinstance(result, dict) and result.get("benchmark") == kind]


def full_tables(folder: Path) -> str:
    """docs/benchmarks.md: every result, in the order of KINDS, then by file name."""
    return "\n\n".join(make(result, name) for kind, make in KINDS.items() for result, name in read_results(folder, kind))


def small_tables(folder: Path) -> str:
    """README.md: the largest corpus of peers.py and others on its processor, and all models of encoder.py in one table."""
    return "\n\n".join(
        filter(None, [_small_peers(read_results(folder, "peers")), _small_encoder(read_results(folder, "encoder"))])
    )


def _small_peers(results: Sequence[tuple[Result, str]]) -> str:
    if not results:
        return ""
    largest, *others = sorted((result for result, _ in results), key=lambda result: -int(result["rows"]))
    others = [result for result in others if _cores(result) == _cores(largest)]
    base, ratios = _slower_than(largest)
    lines = [_timed(name, row, base, ratios) for name, row in _finished(largest)]
    told = f"{largest['rows']:,} texts, file to file, start-up included, {_cores(largest)}"
    text = f"{told}:\n\n{markdown(_peers_header(largest, base), lines)}"
    for result in others:
        base, ratios = _slower_than(result)
        more = [
            f"{ratios[name]['median']:.2f} {row['title']}{_precision(row)}"
            for name, row in _finished(result)
            if ratios.get(name) and name not in largest["contestants"] and name not in MEASURED_AGAINST
        ]
        text += f"\n\nTimes slower than reembed over {result['rows']:,} texts: {'; '.join(more)}." if more else ""
    return text


def _small_encoder(results: Sequence[tuple[Result, str]]) -> str:
    lines = []
    for result, _ in results:
        rows = result["contenders"]
        for name, row in rows.items():
            owner, _, precision = name.partition(" ")
            if owner != "reembed":
                continue
            other = rows.get(f"transformers {precision}")
            rate = row["tokens_per_second"]["median"]
            theirs = other["tokens_per_second"]["median"] if other else None
            lines.append(
                (
                    f"{result['model'].removesuffix('/model')}, {precision}",
                    f"{rate:,.0f}",
                    f"{theirs:,.0f}" if theirs else "",
                    f"{row['share_of_peak']['median']:.0%}",
                    f"{row['cosine_min']:.5f}",
                )
            )
    header = (
        "the encoder alone",
        "reembed, tokens/s",
        "transformers, tokens/s",
        "share of matrix products",
        "min cosine to float32",
    )
    return markdown(header, lines) if lines else ""


PAGES: dict[str, Callable[[Path], str]] = {"README.md": small_tables, "docs/benchmarks.md": full_tables}


def stale_pages(root: Path, results: Path) -> dict[Path, str]:
    """Pages whose marked block is not what the results say, and the text that they should have.

    Raises:
        SystemExit: a page lacks the marks.
    """
    pages = {root / name: make for name, make in PAGES.items()}
    texts = {page: replaced(page.read_text(), make(results)) for page, make in pages.items()}
    return {page: text for page, text in texts.items() if text != page.read_text()}


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
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of README.md and docs/")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    stale = stale_pages(options.root, options.results)
    if options.check and stale:
        names = ", ".join(page.name for page in stale)
        sys.exit(f"{names}: the tables are not what the results say; run: python -m benchmarks.tables")
    for page, text in stale.items():
        page.write_text(text)


if __name__ == "__main__":
    main()
