"""Which vectors and rows of the published snapshot a new run may use, and what it need not look at again. Without Ray."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.commands.plan import plan_run
from jobs.corpus.discovery import Corpus
from jobs.corpus.listing import SourceObject
from jobs.embed.job import embed_corpus
from jobs.planning.reuse import known_objects, open_base, reads_tsv_anew
from jobs.planning.run import ReuseRefused, Run
from jobs.state.records import list_runs, read_run
from tests.jobs.nights import NIGHT_1, HandSession, by_hand, corpus_of, days_apart, rows, settings
from workers.config import CorpusConfig, CsvConfig, SourceFormat
from workers.records.documents import ROW_RULES, ReadPlan
from workers.storage.objects import ObjectInfo
from workers.storage.store import Store


@pytest.fixture(autouse=True)
def _embedded_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    by_hand(monkeypatch)
    days_apart(monkeypatch)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> tuple[Path, str]:
    """The first night, to be looked at only: its folder and run id."""
    folder = tmp_path_factory.mktemp("published")
    corpus_of(folder / "corpus", NIGHT_1)
    with pytest.MonkeyPatch.context() as patch:
        by_hand(patch)
        return folder, embed_corpus(settings(folder, small_model))["run_id"]


@pytest.mark.slow
def test_an_unchanged_object_is_not_opened(folder: str, small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(folder, small_model)
    corpus_of(f"{folder}/corpus", NIGHT_1)
    embed_corpus(config)
    corpus_of(f"{folder}/corpus", {"b": rows("b", 20, changed=1)})
    import jobs.corpus.footers
    import workers.storage.stream

    opened: list[str] = []
    read_range, open_object = jobs.corpus.footers.read_range, workers.storage.stream.open_object

    def noted(call: Any) -> Any:
        def noting(uri: str, *arguments: Any, **options: Any) -> Any:
            opened.append(uri.rpartition("/")[2])
            return call(uri, *arguments, **options)

        return noting

    monkeypatch.setattr(jobs.corpus.footers, "read_range", noted(read_range))
    monkeypatch.setattr(workers.storage.stream, "open_object", noted(open_object))
    embed_corpus(config)
    assert set(opened) == {"b.parquet"}


@pytest.mark.slow
def test_renamed_locally_its_texts_are_looked_for_where_they_were(tmp_path: Path, small_model: Path) -> None:
    config = settings(tmp_path, small_model)
    corpus_of(tmp_path / "corpus", NIGHT_1)
    first = embed_corpus(config)
    (tmp_path / "corpus/b.parquet").rename(tmp_path / "corpus/z.parquet")
    planned = plan_run(config)
    assert planned["reuse"]["objects"] == {"unchanged": 3, "changed": 0, "new": 1, "deleted": 1}
    assert planned["rows_to_embed"] == 0, "the plan's sample finds them"
    assert embed_corpus(config)["documents"] == first["documents"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "base"),
    [
        ({"model": {"prompt": "query: "}}, False),
        ({"model": {"pooling": "cls"}}, False),
        ({"model": {"max_tokens": 64}}, False),
        ({"model": {"normalize": False}}, False),
        ({"model": {"truncate_dim": 16}}, False),
        ({"model": {"long_text": "mean_of_chunks"}}, False),
        ({"model": {"precision": "bfloat16"}}, False),
        ({"output": {"vector": "float16"}}, False),
        ({"model": {"precision": "float32"}}, True),
        ({"model": {"batch_tokens": 500}}, True),
        ({"model": {"chunk_overlap": 10}}, True),
        ({"run": {"shard_bytes": 8192}}, True),
        ({"corpus": {"max_text_bytes": 10_000}}, True),
    ],
)
def test_only_vectors_made_alike_are_reused(
    published: tuple[Path, str], small_model: Path, changes: dict[str, Any], base: bool
) -> None:
    folder, run_id = published
    planned = plan_run(settings(folder, small_model, **changes))
    assert planned["reuse"]["base"] == (run_id if base else None)
    rows_read_alike = base and "corpus" not in changes
    assert planned["reuse"]["carried_rows"] == (80 if rows_read_alike else 0)
    assert planned["rows_to_embed"] == (0 if base else 80)
    assert planned["action"] == "new run"


@pytest.mark.slow
def test_reuse_off_embeds_everything(tmp_path: Path, small_model: Path) -> None:
    corpus_of(tmp_path / "corpus", NIGHT_1)
    embed_corpus(settings(tmp_path, small_model))
    corpus_of(tmp_path / "corpus", {"e": rows("e", 10)})
    off = settings(tmp_path, small_model, run={"reuse": False})  # as YAML reads `off`
    assert plan_run(off)["rows_to_embed"] == 90
    second = embed_corpus(off)
    assert (second["documents"], second["reused_rows"], second["reuse"]["base"]) == (90, 0, None)


@pytest.mark.slow
def test_int8_takes_the_scale_of_its_base(tmp_path: Path, small_model: Path) -> None:
    config = settings(tmp_path, small_model, output={"vector": "int8"})
    corpus_of(tmp_path / "corpus", NIGHT_1)
    assert embed_corpus(config)["int8_scale"] == 0.01
    corpus_of(tmp_path / "corpus", {"e": rows("e", 10)})
    record_of_first = open_base(Store(config.output.uri, {}))
    assert record_of_first is not None
    record = replace(record_of_first.record, int8_scale=0.02)
    path = tmp_path / "out/runs" / record.run_id / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"int8_scale": 0.02}))
    assert embed_corpus(config)["int8_scale"] == 0.02, "whatever it was"


@pytest.mark.slow
def test_a_precision_that_no_replica_has_is_planned_again(
    tmp_path: Path, small_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = settings(tmp_path, small_model)
    corpus_of(tmp_path / "corpus", NIGHT_1)
    first = embed_corpus(config)
    corpus_of(tmp_path / "corpus", {"e": rows("e", 10)})

    embed = HandSession.embed

    def refusing(session: Any, run: Run, *rest: Any) -> Any:
        if run.took_precision:
            raise ReuseRefused("a replica works in float16, the published snapshot is in float32")
        return embed(session, run, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HandSession, "embed", refusing)
        second = embed_corpus(config)
    assert (second["documents"], second["reused_rows"], second["reuse"]["base"]) == (90, 0, None)
    assert "works in float16, the published snapshot is in float32; planned again without reuse" in caplog.text
    runs = list_runs(Store(config.output.uri, {}))
    assert runs == [first["run_id"], second["run_id"]], "the run that was taken back was never begun"
    assert {path.name for path in (tmp_path / "out/data").rglob("*.parquet")}
    assert {path.name for path in (tmp_path / "out/data").iterdir() if any(path.iterdir())} == set(runs)


@pytest.mark.slow
def test_what_a_run_remembers_of_its_objects(tmp_path: Path, small_model: Path) -> None:
    corpus_of(tmp_path / "corpus", NIGHT_1)
    (tmp_path / "corpus/lines.jsonl").write_text('{"id": "x", "text": "one", "n": 1}\n')
    config = settings(tmp_path, small_model)
    first = embed_corpus(config)
    store = Store(config.output.uri, {})
    base = open_base(store)
    assert base is not None
    memory = known_objects(base, config)
    assert memory is not None
    assert known_objects(base, settings(tmp_path, small_model, corpus={"text": "id"})) is None, "it looked for other columns"
    record = read_run(store, first["run_id"])
    assert record is not None
    assert record.extra["recipe"]["pooling"] == ["mean"]
    assert record.extra["objects"] == {"unchanged": 0, "changed": 0, "new": 5, "deleted": 0}
    assert record.nullable_elements is False
    assert replace(record, extra={}).nullable_elements, "a run begun by version 0.1.0"
    assert pq.read_table(tmp_path / "out/runs" / first["run_id"] / "objects.parquet").num_rows == 5


@pytest.mark.parametrize(
    ("name", "quote", "rules", "anew"),
    [
        ("a.tsv", "auto", None, True),
        ("a.TSV.gz", "auto", None, True),
        ("a.tsv", "auto", ROW_RULES, False),
        ("a.tsv", '"', None, False),
        ("a.csv", "auto", None, False),
    ],
)
def test_tsv_read_by_earlier_rules_is_not_carried_over(name: str, quote: str, rules: int | None, anew: bool) -> None:
    """Vectors of its texts are; but which texts there are is decided anew."""
    base = SimpleNamespace(record=SimpleNamespace(plan={} if rules is None else {"row_rules": rules}))
    config = CorpusConfig(uri=["x"], csv=CsvConfig(quote=quote))
    source = SourceObject(ObjectInfo(f"s3://b/{name}", 1, "e"), SourceFormat.CSV, None)
    corpus = Corpus((source,), ReadPlan(config, pa.string(), pa.schema([])))
    assert reads_tsv_anew(cast("Any", base), corpus) is anew


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "carried"), [(pa.int64(), 40), (pa.int32(), 0)])
def test_parts_whose_values_an_earlier_version_converted_are_read_again(
    tmp_path: Path, small_model: Path, kind: pa.DataType, carried: int
) -> None:
    """Only where objects differ in the type of a kept column; the vectors are reused in any case."""
    config = settings(tmp_path, small_model, corpus={"keep": ["n"]})
    corpus_of(tmp_path / "corpus", {name: rows(name, 20) for name in ("a", "b")})
    for name, of_object in (("a", pa.int64()), ("b", kind)):
        path = tmp_path / f"corpus/{name}.parquet"
        table = pq.read_table(path).append_column("n", pa.array(range(20), of_object))
        pq.write_table(table, path, row_group_size=10, use_dictionary=False)
    embed_corpus(config)
    shutil.copy(tmp_path / "corpus/a.parquet", tmp_path / "corpus/c.parquet")
    assert plan_run(config)["reuse"]["carried_rows"] == 40, "this version made it"
    (record,) = (tmp_path / "out/runs").glob("*/run.json")
    stored = json.loads(record.read_text())
    del stored["plan"]["rules"]
    record.write_text(json.dumps(stored))
    planned = plan_run(config)
    assert planned["reuse"]["carried_rows"] == carried
    assert planned["rows_to_embed"] == 20, "those of c: the vectors of a and b are reused"
