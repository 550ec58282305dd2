"""Where the runs take place: a small real corpus, a tiny model, and what undisturbed runs make of them.

    documents       corpus files of all kinds (Parquet, JSONL, gzipped JSONL, CSV) with real texts
    scene           on a folder of a small disk of its own, or on a real S3 server with a faulty proxy before it
    Place.calm      the undisturbed run of the first night or of the second, which the disturbed ones must equal

The second night finds three objects changed, one renamed, one deleted and one new, and the first night's snapshot.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import shutil
import subprocess
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import s3fs
import yaml

from tests.drivers import gathered
from tests.faults.proxy import FaultyProxy
from tests.local_replicas import local_embed
from tests.s3_server.ceph import CephServer

OBJECTS, ROWS = 10, 16
SHARD_BYTES = 4096
DISK_BYTES = 48 << 20
Row = dict[str, str]


def rows_of(documents: list[Row]) -> dict[str, list[Row]]:
    """Objects of the first night: name -> rows."""
    kinds = ("parquet", "jsonl", "parquet", "csv", "jsonl.gz")
    return {
        f"object-{number:02d}.{kinds[number % len(kinds)]}": documents[number * ROWS : (number + 1) * ROWS]
        for number in range(OBJECTS)
    }


def changed(objects: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """The second night's."""
    after = {name: list(rows) for name, rows in objects.items()}
    names = list(after)
    for name in names[1:4]:
        after[name][3] = after[name][3] | {"text": f"changed over night: {after[name][3]['text']}"}
        after[name].pop(7)
    after["renamed." + names[5].partition(".")[2]] = after.pop(names[5])
    after.pop(names[8])
    after["object-new.jsonl"] = [row | {"id": f"new-{row['id']}"} for row in objects[names[0]][:6]]
    return after


def encoded(name: str, rows: list[Row]) -> bytes:
    """An object's bytes, by its ending."""
    if name.endswith(".parquet"):
        stream = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), stream, row_group_size=6)
        return stream.getvalue()
    if name.endswith(".csv"):
        text = io.StringIO()
        writer = csv.DictWriter(text, rows[0])
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode()
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    return gzip.compress(lines, mtime=0) if name.endswith(".gz") else lines


@dataclass(frozen=True)
class Calm:
    """What an undisturbed run makes: all columns of all rows by id, and in how many shards."""

    rows: pa.Table
    shards: int


def everything(data: str, fs: Any = None) -> pa.Table:
    """All columns of all rows of a snapshot's folder, by id."""
    return ds.dataset(data, filesystem=fs, format="parquet", partitioning="hive").to_table().sort_by("id")


@dataclass
class Place:
    """Roots are folders, or BUCKET/prefix; `disk` is where processes keep their temporary files."""

    name: str
    root: str
    disk: Path
    model: Path
    folder: Path
    objects: dict[str, list[Row]]
    disk_is_ours: bool = False
    server: CephServer | None = None
    proxy: FaultyProxy | None = None
    fs: Any = None
    _calm: dict[int, Calm] = field(default_factory=dict)

    @property
    def scheme(self) -> str:
        return "s3://" if self.server else ""

    @property
    def environment(self) -> dict[str, str]:
        """Ray's folder has sockets in it, whose paths must be short; it must not fill our small disk either.

        Ray waits a minute for a GCS that has gone before it ends its driver; here ten seconds.
        """
        patience = {"RAY_gcs_rpc_server_reconnect_timeout_s": "10"}
        return {"TMPDIR": str(self.disk / "tmp"), "RAY_TMPDIR": "/tmp"} | patience

    def output(self, run: str) -> str:
        return f"{self.root}/out-{run}"

    def configure(self, run: str, *, night: int = 1, replicas: int = 2, address: str = "local") -> Path:
        """A configuration file of its own; on S3 through the proxy, by a client that waits two seconds for an answer."""
        options: dict[str, Any] = {}
        if self.proxy:
            client = {"read_timeout": 2, "connect_timeout": 2, "retries": {"max_attempts": 1, "mode": "standard"}}
            options = {"storage_options": {"endpoint_url": self.proxy.endpoint, "config_kwargs": client}}
        sections = {
            "corpus": {"uri": f"{self.scheme}{self.root}/corpus-{night}/", "id": "id", "keep": ["section"]} | options,
            "model": {"name": str(self.model), "precision": "float32"},
            "output": {"uri": f"{self.scheme}{self.output(run)}", "partition_by": ["section"]} | options,
            "cluster": {"address": address, "replicas": replicas, "cpus_per_replica": 1, "gpus_per_replica": 0},
            "run": {"shard_bytes": SHARD_BYTES},
        }
        path = self.folder / f"{self.name}-{run}.yaml"
        path.write_text(yaml.safe_dump(json.loads(json.dumps(sections))))  # the same options twice, not an alias)
        return path

    def calm(self, night: int) -> Calm:
        """Made when it is first asked for."""
        if night not in self._calm:
            self.write_corpus(night, self.objects)
            if night == 2:  # a corpus of its own, because it changes
                self._undisturbed("before-2", 2)
                self._get(self.output("before-2"), self.folder / "first" / self.name)
                self.write_corpus(night, changed(self.objects), made=self.objects)
                self._put(self.folder / "first" / self.name, self.output("calm-2"))
            self._calm[night] = self._undisturbed(f"calm-{night}", night)
        return self._calm[night]

    def prepare(self, run: str, night: int) -> None:
        """The output before a run: nothing, or the first night's."""
        self.calm(night)
        if night == 2:
            self._put(self.folder / "first" / self.name, self.output(run))

    def write_corpus(self, night: int, objects: dict[str, list[Row]], made: Mapping[str, list[Row]] | None = None) -> None:
        """What stands already, `made`, is left alone where it stays the same."""
        before = made or {}
        for name, rows in objects.items():
            if before.get(name) != rows:
                self._put_bytes(f"{self.root}/corpus-{night}/{name}", encoded(name, rows))
        for name in set(before) - set(objects):
            if self.fs:
                self.fs.rm(f"{self.root}/corpus-{night}/{name}")
            else:
                Path(f"{self.root}/corpus-{night}/{name}").unlink()

    def remove(self, run: str) -> None:
        if self.fs:
            self.fs.invalidate_cache()
            self.fs.rm(self.output(run), recursive=True)
        else:
            shutil.rmtree(self.output(run))

    def _undisturbed(self, run: str, night: int) -> Calm:
        ended = local_embed(self.configure(run, night=night))
        if ended.rc != 0 or ended.summary["quarantined_rows"]:
            raise RuntimeError(f"the undisturbed run ended with {ended.rc}:\n{ended.log[-3000:]}")
        return Calm(everything(self.path(ended.summary["data"]), self.fs), ended.summary["shards"]["planned"])

    def path(self, uri: str) -> str:
        """As the file system wants it."""
        return uri.removeprefix("s3://")

    def _put_bytes(self, path: str, data: bytes) -> None:
        if self.fs:
            self.fs.pipe_file(path, data)
        else:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_bytes(data)

    def _put(self, source: Path, target: str) -> None:
        if self.fs:
            self.fs.put(f"{source}/", target, recursive=True)
        else:
            shutil.copytree(source, target)

    def _get(self, source: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        if self.fs:
            self.fs.get(f"{source}/", str(target), recursive=True)
        else:
            shutil.copytree(source, target)


def documents(count: int, corpus: Path | None = None) -> list[Row]:
    """The first so many rows of a Parquet file with columns id, text and section, else docstrings of this machine."""
    if corpus is None:
        return [{"id": item.id, "text": item.text, "section": item.kind} for item in gathered(count)]
    rows: list[Row] = pq.read_table(corpus, columns=["id", "text", "section"]).slice(0, 20 * count).to_pylist()
    common = [section for section, _ in Counter(row["section"] for row in rows).most_common(4)]
    return [row for row in rows if row["section"] in common][:count]


@contextmanager
def scene(folder: Path, minilm: Path, server: CephServer | None, corpus: Path | None = None) -> Iterator[dict[str, Place]]:
    """The places by name: `local`, and `s3` where there is a server. What was mounted is unmounted at the end."""
    from tests.workers.families import FAMILIES, save_family  # torch: for the runs alone

    model = save_family(minilm, folder / "model", FAMILIES["Bert"])
    objects = rows_of(documents(OBJECTS * ROWS, corpus))
    with ExitStack() as stack:
        ours = _small_disk(folder / "disk", stack)
        places = {"local": Place("local", str(folder / "disk" / "data"), folder / "disk", model, folder, objects, ours)}
        if server is not None:
            fs = s3fs.S3FileSystem(skip_instance_cache=True)
            bucket = f"faults-{uuid.uuid4().hex[:8]}"
            fs.mkdir(bucket)
            proxy = stack.enter_context(FaultyProxy(server.environment()["AWS_ENDPOINT_URL"]))
            places["s3"] = Place("s3", bucket, folder / "disk", model, folder, objects, ours, server, proxy, fs)
        (folder / "disk" / "tmp").mkdir()
        yield places


def _small_disk(folder: Path, stack: ExitStack) -> bool:
    """Mount one, where this is allowed; whether it was."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        return False
    stack.callback(subprocess.run, ["umount", "-l", str(folder)], check=False)
    return True
