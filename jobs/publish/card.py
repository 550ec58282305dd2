"""The data set card: OUTPUT/README.md says what the published snapshot is, to people and to Hugging Face's `datasets`.

Its YAML front matter names the snapshot's files, so `load_dataset(OUTPUT)` reads the published snapshot and nothing else of
OUTPUT. It lies beside data/, not in the snapshot's folder: pyarrow (and so pandas) and Polars take every file there for
Parquet, Polars even one whose name begins with `_`, and `datasets` knows no other name than README.md.

Replaced after CURRENT.json, which alone decides what readers have. A README.md of somebody else's is left as it is. A
failure is a warning.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyarrow as pa
import yaml

from jobs.state.current import Current, read_current
from jobs.state.stored_run import StoredRun
from workers.table.paths import CARD
from workers.table.vector_identity import TOLD_FACTS

log = logging.getLogger("reembed")

MARK = "<!-- written by reembed; a file without this line is left as it is -->"
_SAME = (
    "bool",
    "string",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "binary",
    "large_string",
)
_OTHER = {"halffloat": "float16", "float": "float32", "double": "float64", "date32[day]": "date32"}


def put_card(run: StoredRun, guard: Callable[[], None]) -> None:
    """Store the card of the run that has just been published, if `embed` made it. Never raises.

    `guard`: the lock's; a driver that has lost it writes nothing.
    """
    if run.job is not None:
        return
    try:
        guard()
        current = read_current(run.store)
        if current is None or current.run_id != run.run_id:
            return
        try:
            if MARK.encode() not in run.store.read(CARD):
                log.info("%s is not reembed's, so it is left as it is", run.store.uri_of(CARD))
                return
        except FileNotFoundError:
            pass
        size = sum(file.bytes for file in run.files)
        text = card(current, run.schema.part, run.schema.partition_by, run.model, size)
        run.store.put(CARD, text.encode())
    except Exception as error:  # noqa: BLE001 - the snapshot is published, and its card must not fail the run
        log.warning("the data set card was not written: %s: %s", type(error).__name__, error)


def card(current: Current, part: pa.Schema, partition_by: Iterable[str], model: Mapping[str, Any], size: int) -> str:
    """The text. `part`: columns in the files, `size` bytes together; those of `partition_by` are in folder names alone."""
    features = {field.name: feature(field.type) for field in part}
    listed = {name: found for name, found in features.items() if found is not None}
    front = {
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": "train", "path": f"{current.data_path}/**/*.parquet"}],
                "columns": list(listed),
            }
        ],
        "dataset_info": {
            "features": [{"name": name, **found} for name, found in listed.items()],
            "splits": [{"name": "train", "num_bytes": size, "num_examples": current.rows}],
        },
        "tags": ["embeddings"],
    }
    partitions = list(partition_by)
    rows = [f"| {_cell(field.name)} | {_cell(field.type)} | {_where(features[field.name])} |" for field in part]
    rows += [f"| {_cell(name)} | | in the folders' names: `{_cell(name)}=…` |" for name in partitions]
    facts = [f"| {name} | {_cell(model[name])} |" for name in TOLD_FACTS if model.get(name) is not None]
    return "\n".join([
        "---",
        yaml.safe_dump(front, sort_keys=False, allow_unicode=True) + "---",
        MARK,
        "",
        f"# Embeddings by {_cell(model['name'])}",
        "",
        f"{current.rows:,} rows, published {current.published_at} by reembed {current.reembed}. CURRENT.json names",
        f"the snapshot that readers have; at the time of writing that is `{current.data_path}`.",
        "",
        "| model | |",
        "| --- | --- |",
        *facts,
        "",
        "| column | type | |",
        "| --- | --- | --- |",
        *rows,
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        'dataset = load_dataset("OUTPUT", split="train")  # this folder',
        *(_with_partitions(current.data_path, partitions) if partitions else []),
        "```",
        "",
        "runs/<run_id>/report.html says how the snapshot was made, and what was quarantined.",
        "",
    ])  # fmt: skip


def feature(kind: pa.DataType) -> dict[str, Any] | None:
    """The type as `datasets` writes it in YAML; None: it has no such type, or one that not all of its versions read."""
    name = str(kind)
    if name in _SAME or name in _OTHER:
        return {"dtype": _OTHER.get(name, name)}
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind):
        inner = feature(kind.value_type)
        if inner is None:
            return None
        length = {"length": kind.list_size} if pa.types.is_fixed_size_list(kind) else {}
        return {"sequence": inner["dtype"] if list(inner) == ["dtype"] else inner, **length}
    return None


def _where(found: Mapping[str, Any] | None) -> str:
    return "" if found is not None else "not read by `load_dataset`"


def _with_partitions(data_path: str, partitions: Iterable[str]) -> list[str]:
    """Lines that read the partition columns too, which `load_dataset` does not."""
    fields = ", ".join(f"({name!r}, pa.string())" for name in partitions)
    return [
        "",
        "# with the columns that are in folder names",
        "import pyarrow as pa",
        "import pyarrow.dataset as ds",
        "from datasets import Dataset",
        "",
        f'hive = ds.partitioning(pa.schema([{fields}]), flavor="hive")',
        f'table = ds.dataset("OUTPUT/{data_path}", partitioning=hive).to_table()',
        'dataset = Dataset(table.drop_columns(["text_hash"]))',
    ]


def _cell(value: object) -> str:
    """Text for a table: names are the corpus's."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("`", "'").replace("<", "&lt;")
