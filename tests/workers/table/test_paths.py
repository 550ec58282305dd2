"""The layout below OUTPUT is public: names are compared letter by letter with those that docs/output_format.md and
docs/operations.md promise, and no product module but workers/table/paths.py spells one."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from workers.table.paths import (
    CURRENT,
    LOCK,
    PROBES,
    RunPaths,
    folder_in_snapshot,
    is_ledger_segment,
    is_run_id,
    lock_claim,
    receipt_shard,
)

RUN = "20261120T100312Z-1a2b3c4d"
PRODUCT = Path(__file__).parents[3]


def test_layout_is_the_public_one() -> None:
    paths = RunPaths(RUN)
    assert (CURRENT, LOCK, PROBES, lock_claim(7)) == ("CURRENT.json", "runs/lock", "runs/probe", "runs/lock/00000007.json")
    assert (paths.root, paths.data) == (f"runs/{RUN}", f"data/{RUN}")
    assert [path.removeprefix(f"runs/{RUN}/") for path in (
        paths.record, paths.manifest, paths.objects, paths.receipts, paths.ledger, paths.quarantine,
        paths.status, paths.summary, paths.report, paths.golden, paths.figures,
    )] == [
        "run.json", "manifest.parquet", "objects.parquet", "receipts", "ledger", "quarantine",
        "status.json", "summary.json", "report.html", "golden.npz", "gate.npz",
    ]  # fmt: skip
    assert paths.receipt(12_345_678) == f"runs/{RUN}/receipts/12345/12345678.json"
    assert paths.receipt(3) == f"runs/{RUN}/receipts/00000/0000003.json"
    assert paths.ledger_segment(2, 41) == f"runs/{RUN}/ledger/00000002-000041.jsonl.zst"
    assert paths.staged(3) == f"runs/{RUN}/staged/0000003.json"
    assert paths.quarantined_rows(3) == f"runs/{RUN}/quarantine/shard-0000003.parquet"
    assert paths.quarantined_shard(3) == f"runs/{RUN}/quarantine/shard-0000003-whole.parquet"
    assert paths.history == (f"runs/{RUN}/summary.json", f"runs/{RUN}/report.html")


@pytest.mark.parametrize("name", ["lock", "probe", RUN + "x", RUN[:-1], RUN.upper(), "", "mine"])
def test_other_folders_are_no_runs(name: str) -> None:
    assert is_run_id(RUN)
    assert not is_run_id(name)


@pytest.mark.parametrize("shard", [0, 7, 9_999_999, 10_000_000])
def test_a_receipt_is_read_back_from_its_path(shard: int) -> None:
    assert receipt_shard(RunPaths(RUN).receipt(shard)) == shard
    assert is_ledger_segment(RunPaths(RUN).ledger_segment(shard % 10**8, shard % 10**6))


@pytest.mark.parametrize("name", ["0000001.json.tmp", "000001.json", "x0000001.json", "0000001.parquet"])
def test_other_files_are_no_receipts(name: str) -> None:
    assert receipt_shard(f"runs/{RUN}/receipts/00000/{name}") is None
    assert not is_ledger_segment(f"runs/{RUN}/ledger/{name}")


def test_the_folders_of_a_part() -> None:
    assert folder_in_snapshot(f"data/{RUN}/part-0000000.parquet") == ""
    assert folder_in_snapshot(f"data/{RUN}/lang=de/kind=a%2Fb/part-0000000-1.parquet") == "lang=de/kind=a%2Fb"


def test_nobody_else_spells_a_path_below_output() -> None:
    """String constants and f-strings that begin like a path of the output, docstrings left out."""
    begins = ("runs/", "data/", "/data/", "/runs/", "CURRENT.json", "receipts/", "staged/", "quarantine/shard")
    spelled = []
    for path in sorted([*PRODUCT.glob("jobs/**/*.py"), *PRODUCT.glob("workers/**/*.py")]):
        if path.match("workers/table/paths.py"):
            continue
        tree = ast.parse(path.read_text())
        alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
        for node in ast.walk(tree):
            text = node.value if isinstance(node, ast.Constant) and id(node) not in alone else None
            if isinstance(text, str) and text.startswith(begins) and " " not in text:
                spelled.append(f"{path.relative_to(PRODUCT)}:{node.lineno}: {text!r}")
    assert not spelled
