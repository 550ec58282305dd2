"""Properties of readers, configuration and partition values, over inputs that hypothesis draws and ones that were kept.

Drawn inputs look like the format with something wrong in it: random bytes seldom get past the first line. What a fuzzer has
found lies in corpus/ and is replayed on every run. Hypothesis prints how to repeat a failure.
"""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from jobs.config import RunConfig, parse_config
from tests.fuzz.properties import CHECKS, LONGEST_TEXT, read
from tests.workers.corpus_files import plan_of, slice_of
from tests.workers.corpus_files import read as read_objects
from workers.errors import UsageError
from workers.table.partitions import HIVE_NULL, hive_partitions, partition_folder

CORPUS = Path(__file__).parent / "corpus"
KEPT = sorted(path for path in CORPUS.glob("*/*") if path.is_file())
QUICK = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
fields = {"id": values, "text": values | st.text(max_size=40), "n": values, "tags": values, "word": values, "other": values}
records = st.fixed_dictionaries({}, optional=fields)
good_records = st.fixed_dictionaries(
    {
        "id": st.text(min_size=1, max_size=8),
        "text": st.text(min_size=1, max_size=30),
        "n": st.integers(0, 99),
        "tags": st.lists(st.text()),
    }
)
ends = st.sampled_from([b"\n", b"\r\n", b"\n\n", b" \n", b""])
noise = st.binary(max_size=20) | st.sampled_from(
    [b"\xff", b"\x00", b"\xef\xbb\xbf", b"{", b"[" * 50, b'{"text": "x', b"\r", b"\xed\xa0\x80"]
)
long_texts = st.integers(LONGEST_TEXT - 2, LONGEST_TEXT + 2).map(lambda size: "x" * size)


def _json(record: Any) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass")


jsonl_lines = (records | good_records).map(_json) | noise | long_texts.map(lambda text: _json({"id": "long", "text": text}))
jsonl_files = st.lists(st.tuples(jsonl_lines, ends).map(b"".join), max_size=12).map(b"".join)


@pytest.mark.slow
@QUICK
@given(jsonl_files)
@example(b'{"id": "\\ud800", "text": "a"}\n')
@example(b'{"id": 1e400, "text": "a", "n": 1e400}\n')
@example(b'{"id": "a", "text": "b", "id": null}')
def test_jsonl(data: bytes) -> None:
    CHECKS["jsonl"](data)


@QUICK
@given(
    st.lists(
        st.tuples(st.text(max_size=30).map(str.encode) | noise | long_texts.map(str.encode), ends).map(b"".join), max_size=12
    ).map(b"".join)
)
def test_text(data: bytes) -> None:
    CHECKS["text"](data)


cells = st.text(st.sampled_from('ab",\n\r\té日 '), max_size=12)
quoted = cells.map(lambda cell: '"' + cell.replace('"', '""') + '"')
csv_rows = st.lists(quoted | cells.filter(lambda cell: not set(cell) & set('",\r\n')) | cells, min_size=1, max_size=4).map(
    ",".join
)
csv_files = st.tuples(
    st.sampled_from(
        [
            "id,text\n",
            "text,id\r\n",
            '"id","text",word\n',
            "id,text,n,tags\n",
            "\ufeffid,text\n",
            "id\n",
            "",
            "id,text,text\n",
        ]
    ),
    st.lists(st.tuples(csv_rows, st.sampled_from(["\n", "\r\n", "\n\n", ""])).map("".join), max_size=10).map("".join),
).map(lambda parts: "".join(parts).encode())


@pytest.mark.slow
@QUICK
@given(csv_files | st.tuples(csv_files, noise, csv_files).map(b"".join))
def test_csv(data: bytes) -> None:
    CHECKS["csv"](data)


def test_a_reader_that_dropped_a_row_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from workers.reading.formats import jsonl as jsonl_module

    lines = jsonl_module.read_lines
    monkeypatch.setattr(jsonl_module, "read_lines", lambda *given: list(lines(*given))[:-1])
    with pytest.raises(AssertionError):
        CHECKS["jsonl"](b'{"id": "a", "text": "b"}\n{"id": "c", "text": "d"}\n')


columns = st.lists(
    st.tuples(st.none() | st.text(max_size=6), st.none() | st.text(max_size=20), st.none() | st.integers(-(2**40), 2**40)),
    max_size=40,
)


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    columns, st.integers(1, 15), st.sampled_from(["none", "snappy", "zstd"]), st.booleans(), st.sampled_from(["1.0", "2.0"])
)
def test_parquet(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], group: int, codec: str, dictionary: bool, page: str
) -> None:
    """Rows in = documents + refused, in order; row groups that tile the object tile its rows."""
    path = tmp_path_factory.mktemp("p") / "a.parquet"
    kinds = {"id": pa.string(), "text": pa.string(), "n": pa.int64()}
    arrays = [
        pa.array(cells, kind)
        for cells, kind in zip(zip(*rows, strict=True) if rows else [(), (), ()], kinds.values(), strict=True)
    ]
    table = pa.Table.from_arrays(arrays, names=list(kinds))
    pq.write_table(table, path, row_group_size=group, compression=codec, use_dictionary=dictionary, data_page_version=page)
    plan = plan_of({"n": pa.int64()}, id="id")
    whole = read_objects(path, plan)
    good = [row for row in rows if row[0] is not None and row[1] and not row[1].isspace()]
    assert [(row["id"], row["text"], row["keep.n"]) for row in whole.documents] == good
    assert whole.rows_read == len(rows)
    assert len(whole.quarantined) == len(rows) - len(good)
    assert all(row.reason for row in whole.quarantined)
    groups = pq.read_metadata(path).num_row_groups
    middle = groups // 2
    pieces = [slice_of(path, start, stop) for start, stop in ((0, middle), (middle, groups)) if start < stop]
    if pieces:
        assert read_objects(pieces, plan).texts == whole.texts


@QUICK
@given(st.dictionaries(st.text(min_size=1, max_size=20), st.none() | st.text(max_size=300), min_size=1, max_size=4))
def test_partition_values_come_back_from_the_folder(values: dict[str, str | None]) -> None:
    """What the output writes, the next corpus reads as the same columns; but for values that had to be shortened."""
    try:
        folder = partition_folder(list(values), list(values.values()))
    except (UsageError, UnicodeEncodeError):
        return
    levels = folder.split("/")
    assert len(levels) == len(values)
    assert all("=" in level and level not in (".", "..") and "\\" not in level and "\0" not in level for level in levels)
    assert Path("/out/data", folder).resolve().is_relative_to("/out/data")
    for (name, value), (found_name, found) in zip(values.items(), hive_partitions(levels), strict=True):
        assert found_name == name
        shortened = found is not None and value is not None and "~" in found and value.startswith(found.rpartition("~")[0])
        assert found == value or shortened
        assert found is not None or value is None, "only null comes back as null"


def test_the_null_folder_is_hives() -> None:
    assert partition_folder(["a"], [None]) == f"a={HIVE_NULL}"
    assert unquote(partition_folder(["a"], ["../x"])) == "a=../x"


settings_names = st.sampled_from(
    ["corpus", "model", "output", "cluster", "run", "gate", "cost", "uri", "text", "id", "keep", "name", "nonsense"]
)
configurations = st.dictionaries(settings_names, st.dictionaries(settings_names, values, max_size=4) | values, max_size=5)
yaml_text = st.text(st.sampled_from(string.ascii_lowercase + "{}[]:,-\n \"'&*!|>%@#?0123456789.~"), max_size=80)


@QUICK
@given(configurations)
def test_a_mapping_becomes_a_configuration_or_a_usage_error(raw: dict[str, Any]) -> None:
    found, said = None, ""
    try:
        found = parse_config(raw, "drawn")
    except UsageError as error:
        said = str(error)
    assert isinstance(found, RunConfig) or said.startswith("drawn: ")
    assert "\n" not in said


@QUICK
@given(
    (configurations.map(lambda raw: yaml.safe_dump(raw, allow_unicode=True)) | yaml_text).map(
        lambda text: text.encode("utf-8", "surrogatepass")
    )
    | st.binary(max_size=60),
    st.lists(st.text(max_size=30).map(lambda text: text.encode("utf-8", "replace")), max_size=2),
)
@example(b"corpus: {uri: x}\noutput: {uri: y}\n", [b"run.max_attempts=4", b"=", b"a.b.c", b"corpus.uri.x=1"])
@example(b"? [a, b]\n: 1\n", [])
@example(b"2026-02-31: 1\n", [])
@example(b"corpus: {uri: x, max_text_bytes: .inf}\noutput: {uri: y}\n", [])
@example(b"run: {shard_bytes: 1e400}\n", [])
def test_configuration_files(text: bytes, overrides: list[bytes]) -> None:
    CHECKS["config"](b"\0".join([text, *overrides]))


@pytest.mark.parametrize("path", KEPT, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_kept_inputs(path: Path) -> None:
    CHECKS[path.parent.name](path.read_bytes())


def test_there_are_kept_inputs_for_each_target() -> None:
    assert {path.parent.name for path in KEPT} == set(CHECKS)
    assert read("jsonl", b"").rows == 0
