"""A sample of one place: as many texts as asked for, their hashes and tokens by independent means."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from workers.config import CorpusConfig, ModelConfig
from workers.host.isolated_process import IsolatedProcess
from workers.inspection.text_sample import Drawn, draw
from workers.model.files import resolve_model
from workers.model.recipes.read import read_recipe
from workers.model.recipes.recipe import EmbeddingRecipe
from workers.records.documents import ReadPlan
from workers.records.shard import ObjectSlice, Shard
from workers.storage.objects import list_objects

TEXTS = [f"document number {number} has some words" for number in range(40)]


@pytest.fixture(scope="module")
def isolated() -> Iterator[IsolatedProcess]:
    with IsolatedProcess() as process:
        yield process


@pytest.fixture(scope="module")
def model(minilm: Path) -> tuple[Path, EmbeddingRecipe]:
    config = ModelConfig(name=str(minilm))
    files = resolve_model(config)
    return files.folder, read_recipe(files, config)


def _drawn(path: Path, count: int, model: tuple[Path, EmbeddingRecipe], isolated: IsolatedProcess) -> Drawn:
    (info,) = list_objects(str(path), {})
    stop = 1 if path.suffix == ".parquet" else info.size
    spot = Shard(0, (ObjectSlice(info.uri, info.size, info.etag, 0, stop, first_row=0),), info.size)
    plan = ReadPlan(CorpusConfig(uri=[str(path)]), pa.string(), pa.schema([]))
    return draw(spot, plan, count, *model, isolated)


def test_texts_hashes_and_tokens(tmp_path: Path, model: tuple[Path, EmbeddingRecipe], isolated: IsolatedProcess) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": TEXTS}), path)
    drawn = _drawn(path, 10, model, isolated)
    chosen = TEXTS[::4]
    assert drawn.hashes == tuple(hashlib.blake2b(text.encode(), digest_size=16).digest() for text in chosen)
    assert drawn.rows == 10
    assert drawn.tokens == sum(len(ids) for ids in AutoTokenizer.from_pretrained(model[0])(chosen)["input_ids"])


@pytest.mark.slow
def test_an_object_that_cannot_be_read_costs_its_sample(
    tmp_path: Path, model: tuple[Path, EmbeddingRecipe], isolated: IsolatedProcess
) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 no Parquet at all PAR1")
    assert _drawn(path, 10, model, isolated) == Drawn()
    (tmp_path / "b.txt").write_text("\n".join(TEXTS))
    assert len(_drawn(tmp_path / "b.txt", 100, model, isolated).hashes) == len(TEXTS), "the process goes on"
