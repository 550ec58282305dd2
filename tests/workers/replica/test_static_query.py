"""Routers: documents by their own route; queries by a weight a token, against sentence-transformers' own encode calls."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.workers.models import TEXTS, build, copy_model, layout
from tests.workers.sparse_models import masked_lm, routed
from workers.errors import UsageError
from workers.replica.static_query import StaticQueries
from workers.table.sparse import dense_of

pytestmark = [pytest.mark.slow]
QUERIES = ["snow in the harbour", "the the the [SEP] fox"]


@pytest.fixture(scope="module")
def folder(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("routed")
    weights = torch.rand(30522, generator=torch.Generator().manual_seed(3))
    return routed(masked_lm(minilm, place / "mlm"), place / "model", weights)


def test_documents_go_by_their_own_route(folder: Path) -> None:
    from sentence_transformers import SparseEncoder

    tokenizer, encoder = build(folder)
    encoded = encoder.encode(tokenizer.tokenize(TEXTS[:6]))
    assert encoded.offsets is not None
    assert encoded.indices is not None
    found = dense_of(encoded.vectors[:, 0], encoded.indices, np.diff(encoded.offsets), encoder.dim)
    model = SparseEncoder(str(folder), device="cpu")
    expected = model.encode_document(TEXTS[:6], convert_to_sparse_tensor=False).numpy()
    assert np.abs(found - expected).max() <= 1e-5


def test_queries_are_weights_of_their_tokens(folder: Path) -> None:
    from sentence_transformers import SparseEncoder

    _, recipe = layout(folder)
    static = StaticQueries.of_model(folder, recipe)
    assert static is not None
    expected = SparseEncoder(str(folder), device="cpu").encode_query(QUERIES, convert_to_sparse_tensor=False).numpy()
    assert np.abs(np.concatenate(static.embed(QUERIES)) - expected).max() <= 1e-6
    _, few = layout(folder, sparse_top=2)
    fewer = StaticQueries.of_model(folder, few)
    assert fewer is not None
    assert [(vector > 0).sum() for vector in fewer.embed(QUERIES)] == [2, 2]


def test_a_model_without_a_router_has_no_route_of_queries(minilm: Path) -> None:
    assert StaticQueries.of_model(minilm, layout(minilm)[1]) is None


def test_queries_of_another_model_are_refused(folder: Path, tmp_path: Path) -> None:
    """As two towers have: the snapshot can be made, and is searched with vectors of one's own."""
    towers = copy_model(folder, tmp_path / "towers")
    config = json.loads((towers / "router_config.json").read_text())
    config["structure"]["query"] = config["structure"]["document"][:1]
    (towers / "router_config.json").write_text(json.dumps(config))
    _, recipe = layout(towers)
    with pytest.raises(UsageError, match=r"its queries go through other modules than its documents \(Transformer\)"):
        StaticQueries.of_model(towers, recipe)


def test_a_router_without_a_route_for_documents(folder: Path, tmp_path: Path) -> None:
    odd = copy_model(folder, tmp_path / "odd")
    config = json.loads((odd / "router_config.json").read_text())
    config["structure"]["passages"] = config["structure"].pop("document")
    (odd / "router_config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"no route for task 'document' \(routes: query, passages\)"):
        layout(odd)
    config["parameters"]["route_mappings"] = {"('document', None)": "passages"}
    (odd / "router_config.json").write_text(json.dumps(config))
    assert layout(odd)[1].transformer.startswith("document_0")
