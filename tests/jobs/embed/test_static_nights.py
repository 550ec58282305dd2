"""A static model from one night to the next, by the real command: embed, reuse, gate, verify, search, refusals.

The reference is model2vec's StaticModel on the same folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import yaml
from numpy.typing import NDArray

from jobs.commands.search import search_snapshot
from jobs.commands.verify import verify_snapshot
from tests.jobs.embed.command_nights import BEFORE, Nights
from tests.local_replicas import local_embed
from tests.workers.static_models import model2vec_folder, small_tokenizer

pytestmark = [pytest.mark.slow]
DIM = 16  # of the snapshot; the model's vectors have 24
WITHOUT = "supercalifragilisticexpialidocious"  # unknown to the tokenizer, as a whole
AFTER = [*BEFORE[:20], "a letter about flour", *BEFORE[21:], "the pilot's clock", WITHOUT]


@pytest.fixture(scope="module")
def nights(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Nights:
    folder = tmp_path_factory.mktemp("nights")
    model = model2vec_folder(small_tokenizer(minilm), folder / "model", normalize=True)
    raw = {
        "corpus": {"uri": f"{folder}/corpus/", "id": "id"},
        "model": {"name": str(model), "truncate_dim": DIM},
        "output": {"uri": f"{folder}/out"},
        "run": {"max_quarantined_rows": 1},
        "cluster": {"replicas": 1, "cpus_per_replica": 1},
    }
    (folder / "static.yaml").write_text(yaml.safe_dump(raw))
    summaries = []
    (folder / "corpus").mkdir()
    for texts in (BEFORE, AFTER):
        table = pa.table({"id": [f"d{row}" for row in range(len(texts))], "text": texts})
        pq.write_table(table, folder / "corpus" / "0.parquet")
        ended = local_embed(folder / "static.yaml")
        assert ended.rc == 0, ended.log
        summaries.append(ended.summary)
    return Nights(folder / "out", model, folder / "static.yaml", *summaries)


def _expected(nights: Nights, texts: list[str]) -> NDArray[np.float32]:
    from model2vec import StaticModel

    found: NDArray[np.float32] = StaticModel.from_pretrained(nights.model, dimensionality=DIM).encode(texts)
    return found


def _vectors(summary: Any) -> NDArray[np.float32]:
    return np.stack(ds.dataset(summary["data"]).to_table()["embedding"].to_numpy())


def test_vectors_are_those_of_model2vec(nights: Nights) -> None:
    for summary, texts in ((nights.first, BEFORE), (nights.second, AFTER[:-1])):
        assert np.abs(_vectors(summary) - _expected(nights, texts)).max() <= 1e-5
    footer = pq.read_metadata(ds.dataset(nights.second["data"]).files[0]).metadata
    told = {key.decode(): value.decode() for key, value in footer.items()}
    assert (told["reembed.precision"], told["reembed.dim"], told["reembed.pooling"]) == ("float32", str(DIM), "mean")


def test_the_second_night_embeds_what_is_new_and_names_what_it_cannot(nights: Nights) -> None:
    assert nights.second["reused_rows"] == len(BEFORE) - 1
    assert not any(_expected(nights, [WITHOUT])[0]), "zeros, by model2vec"
    bad = ds.dataset(sorted(map(str, nights.output.rglob("quarantine/*.parquet")))).to_table().to_pylist()
    assert [(row["id"], row["reason"]) for row in bad] == [("d25", "none of its tokens has a vector in the model's table")]
    assert all(check["ok"] for check in nights.second["gate"])


def test_verify_and_search(nights: Nights) -> None:
    report = verify_snapshot(str(nights.output), 8)
    assert report["ok"], report["findings"]
    assert report["min_cosine"] == pytest.approx(1, abs=1e-6)
    query = "lamp in the harbour at night"
    scores = _expected(nights, AFTER[:-1]) @ _expected(nights, [query])[0]
    hits = search_snapshot(str(nights.output), query, 4)["hits"]
    assert [hit["score"] for hit in hits] == pytest.approx(np.sort(scores)[::-1][:4], abs=1e-5)
    assert hits[0]["id"] == f"d{int(scores.argmax())}"


def test_settings_that_make_no_sense_stop_the_command(nights: Nights) -> None:
    for setting in ("model.precision=int8", "model.pooling=cls"):
        ended = local_embed(nights.config, setting)
        assert ended.rc == 2, setting
        assert f"{setting}: " in ended.log
        assert "is a static model" in ended.log
