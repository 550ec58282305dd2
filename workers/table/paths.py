"""Every path below OUTPUT, relative to it. Whoever needs a path asks here; nobody builds one by hand.

    CURRENT.json                                  which run readers see
    README.md                                     the data set card of that run
    runs/lock/, runs/probe/                       the drivers' lock, and what a probe for atomic creation leaves
    runs/consumers/<name>/<n>.json                which snapshot a consumer of change sets has; the highest n counts
    runs/<run_id>/run.json                        what the run is; written once and last
                  manifest.parquet                the shards
                  objects.parquet                 what was learned of the source's objects
                  left_out.keys                   rows that corpus.exclude leaves out
                  receipts/<thousand>/<shard>.json
                  ledger/<generation>-<n>.jsonl.zst
                  staged/<shard>.json             receipts of attempts that are putting their files
                  quarantine/shard-<shard>.parquet
                  golden.npz, gate.npz, quality.json    what the gate compares the next snapshot with
                  status.json, summary.json, report.html
                  passes/<place>-<name>.npz       of a job over a snapshot: what its passes answered
                  scratch/                        of a job over a snapshot: what one pass leaves for the next
                  changes/                        what differs from the snapshot before (output.changes)
                  state.npz, shape.json, tables/<name>.parquet   of a job over a snapshot: what it keeps
    data/<run_id>/[column=value/]part-<shard>[-<n>].parquet      parts: named in part_file.py
    data/_delta_log/                              with output.table: delta, the log of the table that data/ is
    data/metadata/                                with output.table: iceberg, likewise

Pure: no storage, and nothing of what is in the files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from workers.records.shard import shard_name

RUNS, DATA = "runs", "data"
DELTA_LOG = f"{DATA}/_delta_log"
ICEBERG_METADATA = f"{DATA}/metadata"
CURRENT = "CURRENT.json"
CARD = "README.md"
LOCK, PROBES, CONSUMERS = f"{RUNS}/lock", f"{RUNS}/probe", f"{RUNS}/consumers"
RECEIPTS_PER_FOLDER = 1000  # one page of a listing
_RUN_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")
_RECEIPT = re.compile(r"(\d{7,})\.json")
_LEDGER_SEGMENT = re.compile(r"\d{8}-\d{6}\.jsonl\.zst")


def is_run_id(name: str) -> bool:
    """Whether a folder below runs/ or data/ may be a run's."""
    return _RUN_ID.fullmatch(name) is not None


def lock_claim(generation: int) -> str:
    """The object by which one driver holds the output."""
    return f"{LOCK}/{generation:08d}.json"


def consumer_state(name: str, number: int) -> str:
    """What a consumer of change sets had after its n-th step."""
    return f"{CONSUMERS}/{name}/{number:08d}.json"


def file_name(path: str) -> str:
    """The part of a path after its last slash."""
    return path.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class RunPaths:
    """Paths of one run."""

    run_id: str

    @property
    def root(self) -> str:
        return f"{RUNS}/{self.run_id}"

    @property
    def data(self) -> str:
        """The snapshot: parts, below folders of partition values where there are any."""
        return f"{DATA}/{self.run_id}"

    @property
    def record(self) -> str:
        return f"{self.root}/run.json"

    @property
    def manifest(self) -> str:
        return f"{self.root}/manifest.parquet"

    @property
    def objects(self) -> str:
        return f"{self.root}/objects.parquet"

    @property
    def left_out(self) -> str:
        return f"{self.root}/left_out.keys"

    @property
    def receipts(self) -> str:
        return f"{self.root}/receipts"

    @property
    def ledger(self) -> str:
        return f"{self.root}/ledger"

    @property
    def quarantine(self) -> str:
        return f"{self.root}/quarantine"

    @property
    def status(self) -> str:
        return f"{self.root}/status.json"

    @property
    def summary(self) -> str:
        return f"{self.root}/summary.json"

    @property
    def report(self) -> str:
        return f"{self.root}/report.html"

    @property
    def golden(self) -> str:
        return f"{self.root}/golden.npz"

    @property
    def figures(self) -> str:
        return f"{self.root}/gate.npz"

    @property
    def quality(self) -> str:
        """What `gate.evaluate` measured of the run."""
        return f"{self.root}/quality.json"

    @property
    def passes(self) -> str:
        """What the passes of a job over a snapshot answered, until it is published."""
        return f"{self.root}/passes"

    @property
    def scratch(self) -> str:
        """What one pass leaves for the next, until the run is published."""
        return f"{self.root}/scratch"

    @property
    def state(self) -> str:
        """What a job over a snapshot keeps for the next night."""
        return f"{self.root}/state.npz"

    @property
    def shape(self) -> str:
        """Of a derived run that holds vectors: what differs from its source's model."""
        return f"{self.root}/shape.json"

    @property
    def changes(self) -> str:
        """Folder of the change set that was written with the publication."""
        return f"{self.root}/changes"

    def table(self, name: str) -> str:
        """A table beside the parts of a derived run, which no reader of the parts' folder meets."""
        return f"{self.root}/tables/{name}.parquet"

    def data_table(self, name: str) -> str:
        """A table of a job that publishes tables alone."""
        return f"{self.data}/{name}.parquet"

    @property
    def history(self) -> tuple[str, ...]:
        """What stays of a run that retention has deleted."""
        return self.summary, self.report

    def receipt(self, shard: int) -> str:
        return f"{self.receipts}/{shard // RECEIPTS_PER_FOLDER:05d}/{shard_name(shard)}.json"

    def ledger_segment(self, generation: int, sequence: int) -> str:
        return f"{self.ledger}/{generation:08d}-{sequence:06d}.jsonl.zst"

    def staged(self, shard: int) -> str:
        return f"{self.root}/staged/{shard_name(shard)}.json"

    def quarantined_rows(self, shard: int) -> str:
        """Rows of the shard that were not embedded: written by the replica."""
        return f"{self.quarantine}/shard-{shard_name(shard)}.parquet"

    def quarantined_shard(self, shard: int) -> str:
        """The shard as a whole, given up: written by the driver, apart from a replica's file."""
        return f"{self.quarantine}/shard-{shard_name(shard)}-whole.parquet"


def folder_in_snapshot(path: str) -> str:
    """The partition folders of a part, `column=value/…`; '' where there are none."""
    return "/".join(path.split("/")[2:-1])


def receipt_shard(path: str) -> int | None:
    """The shard that a receipt is named for; None: no receipt's name. Whether it lies in its folder is not asked."""
    named = _RECEIPT.fullmatch(file_name(path))
    return int(named[1]) if named else None


def is_ledger_segment(path: str) -> bool:
    return _LEDGER_SEGMENT.fullmatch(file_name(path)) is not None
