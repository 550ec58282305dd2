"""Each check of the gate passes, trips and says how, or is skipped and says why."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from jobs.config import GateConfig
from jobs.publish.gate.checks import GateCheck, GateFacts, check_run, failed
from jobs.publish.gate.figures import Comparison, Figures, Golden, VectorFigures
from jobs.state.accounting import Accounting

NAMES = (
    "accounting", "quarantined", "kept", "row_change", "truncated", "empty", "golden", "sample", "norms", "spread",
    "mean_vector", "model_change",
)  # fmt: skip
MODEL = {
    "weights_digest": "a" * 64,
    "pooling": "mean",
    "normalize": True,
    "dim": 8,
    "precision": "float32",
    "vector": "float32",
}
GATE = GateConfig()


def vectors(seed: int = 0, count: int = 200, length: float = 1.0, bias: float = 0.5, dim: int = 8) -> VectorFigures:
    """Of random vectors of one length, their mean in the direction of the first axis."""
    each = np.random.default_rng(seed).standard_normal((count, dim)) / np.sqrt(dim)
    each[:, 0] += bias
    figures = VectorFigures.of((length * each / np.linalg.norm(each, axis=1, keepdims=True)).astype(np.float32))
    assert figures is not None
    return figures


def figures(seed: int = 0, **changed: Any) -> Figures:
    """`changed`: fields, or single counts."""
    counts: dict[str, int] = {"rows_read": 1000, "documents": 1000, "truncated": 20, "empty": 1}
    for name in counts.keys() & changed.keys():
        counts[name] = changed.pop(name)
    counts = {name: count for name, count in counts.items() if count is not None}
    return replace(Figures("run", MODEL, counts, vectors(seed)), **changed)


def facts(**changed: Any) -> GateFacts:
    """A good run after a good snapshot."""
    good = GateFacts(
        accounting=Accounting(1000, 1000, 1000, 0, ()),
        receipts="s3://out/runs/r/receipts",
        quarantine="s3://out/runs/r/quarantine",
        now=figures(),
        last=figures(1),
        alone="",
        golden=Comparison(26, 0.9999),
        probes=Comparison(64, 0.99999),
        joined=Comparison(),
    )
    return replace(good, **changed)


def check(name: str, given: GateFacts, limit: int = 0, **gate: Any) -> GateCheck:
    """One check; all others must be unimpressed."""
    checks = check_run(given, GateConfig(**gate), limit)
    assert tuple(item.name for item in checks) == NAMES
    json.dumps([item.to_json() for item in checks], allow_nan=False)
    assert {item.name for item in failed(checks)} <= {name}
    return next(item for item in checks if item.name == name)


def test_a_good_run_passes_all_and_skips_none() -> None:
    checks = check_run(facts(), GATE, 0)
    assert not failed(checks)
    assert not [item.name for item in checks if item.skipped]
    assert all(item.note and not item.mend for item in checks)


def test_the_first_run_has_nothing_to_compare_with() -> None:
    checks = check_run(facts(last=None, alone="nothing is published yet"), GATE, 0)
    assert not failed(checks)
    skipped = [item for item in checks if item.skipped]
    assert [item.name for item in skipped] == ["row_change", "golden", "sample", "mean_vector", "model_change"]
    assert {item.note for item in skipped} == {"nothing is published yet"}


def test_accounting() -> None:
    breaches = tuple(f"shard {number} (s3://c/x): 10 rows read, 11 embedded or quarantined" for number in range(5))
    found = check("accounting", facts(accounting=Accounting(10, 11, 11, 0, (), breaches)))
    assert (found.ok, found.measured, found.allowed) == (False, 5, 0)
    assert found.reason.startswith("accounting: shard 0 (s3://c/x): 10 rows read, 11 embedded or quarantined; shard 1 ")
    assert "and 2 more" in found.note
    assert "altered: delete the receipt below s3://out/runs/r/receipts" in found.reason


def test_kept_columns_that_no_row_had() -> None:
    found = check("kept", facts(absent=("licence", "yaer")))
    assert (found.ok, found.measured, found.allowed) == (False, 2, 0)
    assert found.reason.startswith("kept: no row had `licence`, `yaer` (corpus.keep); correct corpus.keep")
    assert "corpus.schema: {licence: string}" in found.reason


@pytest.mark.parametrize(
    ("lost", "unknown", "limit", "ok"),
    [(0, (), 0, True), (1, (), 0, False), (5, (), 5, True), (6, (), 5, False), (6, (), -1, True),
     (0, ("s3://c/x",), 1000, False), (0, ("s3://c/x",), -1, True)],
)  # fmt: skip
def test_quarantined(lost: int, unknown: tuple[str, ...], limit: int, ok: bool) -> None:
    found = check("quarantined", facts(accounting=Accounting(10 + lost, 10, 10, lost, unknown)), limit)
    assert (found.ok, found.measured, found.allowed) == (ok, lost, limit)
    if not ok:
        assert found.reason.startswith(
            "quarantined: an unknown number of rows (s3://c/x) is" if unknown else f"quarantined: {lost} rows"
        )
        assert f"see s3://out/runs/r/quarantine (run.max_quarantined_rows={limit}); mend the source" in found.reason


@pytest.mark.parametrize(
    ("now", "last", "limit", "ok"),
    [(1300, 1000, 0.3, True), (1301, 1000, 0.3, False), (700, 1000, 0.3, True), (699, 1000, 0.3, False),
     (0, 1000, 1.0, True), (0, 1000, 0.99, False), (5000, 1000, 4.0, True)],
)  # fmt: skip
def test_row_change(now: int, last: int, limit: float, ok: bool) -> None:
    given = facts(now=figures(documents=now, truncated=0, empty=0), last=figures(1, documents=last))
    found = check("row_change", given, max_row_change=limit)
    assert found.ok is ok
    assert found.measured == abs(now - last) / last
    if not ok:
        assert f"{now:,} documents, {last:,} in the last snapshot: {abs(now - last) / last:.1%}" in found.reason
        assert f"(gate.max_row_change={limit:g}); look at what corpus.uri names" in found.reason


def test_row_change_from_an_empty_snapshot() -> None:
    found = check("row_change", facts(last=figures(documents=0, truncated=0, vectors=None)))
    assert (found.skipped, found.note) == (True, "the last snapshot is empty")


@pytest.mark.parametrize(
    ("now", "before", "setting"),
    [(120, 20, None), (121, 20, "gate.max_truncated_increase=0.1"), (951, 940, "gate.max_truncated=0.95"),
     (950, None, None), (951, None, "gate.max_truncated=0.95"), (20, 900, None)],
)  # fmt: skip
def test_truncated(now: int, before: int | None, setting: str | None) -> None:
    last = None if before is None else figures(1, truncated=before)
    found = check("truncated", facts(now=figures(truncated=now), last=last, alone="nothing is published yet"))
    assert (found.ok, found.measured) == (setting is None, now / 1000)
    if setting:
        assert f"{now / 10:.1f}% of 1,000 documents lost tokens" in found.reason
        assert f"({setting}); look at the texts" in found.reason


def test_truncated_where_the_last_share_is_not_known() -> None:
    assert check("truncated", facts(now=figures(truncated=900), last=figures(1, truncated=None))).ok


def test_empty() -> None:
    assert check("empty", facts(now=figures(empty=500))).ok
    found = check("empty", facts(now=figures(empty=501)))
    assert not found.ok
    assert "50.1% of 1,000 rows have no text (gate.max_empty=0.5); look at the column" in found.reason
    assert check("empty", facts(now=figures(empty=501)), max_empty=0.6).ok
    assert (
        check("empty", facts(now=figures(rows_read=0, documents=0, truncated=0, empty=0), last=None, alone="none")).measured
        == 0
    )


def test_golden() -> None:
    found = check("golden", facts(golden=Comparison(26, 0.99799)))
    assert (found.ok, found.measured, found.allowed) == (False, 0.99799, 0.998)
    assert "cosines of 0.997990 and more between 26 vectors of golden texts" in found.reason
    assert "(gate.min_golden_cosine=0.998)" in found.reason
    assert check("golden", facts(golden=Comparison(26, 0.99799)), min_golden_cosine=0.99).ok
    found = check("golden", facts(golden=Comparison(note="no replica was started")))
    assert (found.skipped, found.note) == (True, "no replica was started")


def test_golden_vectors_are_compared_replica_by_replica() -> None:
    good = np.random.default_rng(0).standard_normal((26, 8)).astype(np.float32)
    good[3] = np.nan  # a sequence without tokens has no vector
    last = Golden.made_by("last", [good])
    assert Golden.made_by("now", [good, 2 * good]).compare(last).least == pytest.approx(1, abs=1e-6)
    noise, broken = np.random.default_rng(1).standard_normal((26, 8)).astype(np.float32), good.copy()
    broken[7] = np.inf
    found = Golden.made_by("now", [good, noise]).compare(last)
    assert found.least is not None
    assert (found.count, found.least < 0) == (50, True)
    assert Golden.made_by("now", [good, broken]).compare(last).least == -1
    assert "another version" in Golden.made_by("now", [good[:20]]).compare(last).note
    assert "another version" in replace(last, texts="").compare(last).note


def test_sample_takes_the_worse_of_probes_and_joined_texts() -> None:
    assert check("sample", facts()).measured == 0.99999
    for worse in ({"probes": Comparison(64, 0.5)}, {"joined": Comparison(10, 0.5)}):
        found = check("sample", facts(**worse))
        assert (found.ok, found.measured) == (False, 0.5)
        assert "and more between" in found.note
        assert "(gate.min_sample_cosine=0.998); the same texts got other vectors" in found.reason
        assert "delete runs/run and data/run and run the same command" in found.reason
    assert "74 unchanged texts" in check("sample", facts(joined=Comparison(10, 0.999))).note
    found = check("sample", facts(probes=Comparison(), joined=Comparison(note="no text of the sample")))
    assert (found.skipped, found.note) == (True, "no text of the sample")


def test_norms() -> None:
    assert check("norms", facts()).ok
    longer = facts(now=figures(vectors=vectors(length=1.06)))
    found = check("norms", longer)
    assert not found.ok
    assert "1.0600 long on average; 1.0000 in the last snapshot (gate.max_norm_change=0.05)" in found.reason
    assert check("norms", longer, max_norm_change=0.1).ok


def test_norms_of_unit_vectors_need_no_last_snapshot() -> None:
    alone: dict[str, Any] = {"last": None, "alone": "nothing is published yet"}
    found = check("norms", facts(now=figures(vectors=vectors(length=0.9)), **alone))
    assert not found.ok
    assert "1.0000 is a unit vector's" in found.note
    for free in ({"normalize": False}, {"vector": "binary"}):
        found = check("norms", facts(now=figures(model=MODEL | free, vectors=vectors(length=9)), **alone))
        assert (found.ok, found.skipped) == (True, False)
        assert "are finite; no other length" in found.note
    assert check("norms", facts(now=figures(vectors=None), **alone)).skipped


def test_vectors_that_are_not_finite() -> None:
    each = np.ones((100, 8), np.float32) / np.sqrt(8)
    each[7, 3], each[8, 0] = np.nan, -np.inf
    found = check("norms", facts(now=figures(vectors=VectorFigures.of(each))))
    assert (found.ok, found.measured, found.allowed) == (False, 2, 0)
    assert found.reason.startswith("norms: 2 of 100 vectors looked at have NaN or Inf; ")
    nothing = VectorFigures.of(np.full((5, 8), np.nan, np.float32))
    assert check("norms", facts(now=figures(vectors=nothing))).measured == 5
    assert VectorFigures.of(np.empty((0, 8), np.float32)) is None


def test_mean_vector() -> None:
    found = check("mean_vector", facts())
    assert found.ok
    assert isinstance(found.measured, float)
    noise = vectors(seed=2, bias=0.0)
    found = check("mean_vector", facts(now=figures(vectors=noise)))
    assert not found.ok
    assert "between the means of 200 vectors and of 200 of the last snapshot (gate.min_mean_cosine=0.9)" in found.reason
    assert check("mean_vector", facts(now=figures(vectors=noise)), min_mean_cosine=-1).ok
    assert check("mean_vector", facts(last=figures(vectors=noise))).skipped, "a mean of about zero says nothing"
    assert check("mean_vector", facts(last=figures(vectors=None))).skipped


def test_small_samples_of_one_distribution_have_the_same_mean() -> None:
    """Uncorrected, the cosines of so few are around 0.88 and limits near 0.9 would be of no use."""
    pairs = [(vectors(seed, 40, bias=0.4, dim=384), vectors(1000 + seed, 40, bias=0.4, dim=384)) for seed in range(100)]
    plain = [now.mean_D @ last.mean_D / np.linalg.norm(now.mean_D) / np.linalg.norm(last.mean_D) for now, last in pairs]
    assert np.median(plain) < 0.9
    corrected = [now.mean_cosine(last) for now, last in pairs]
    assert min(cosine or 0 for cosine in corrected) > 0.95


def test_another_model_is_named_and_must_be_allowed() -> None:
    other = figures(model=MODEL | {"pooling": "cls", "weights_digest": "b" * 64}, vectors=vectors(2, bias=-0.5, length=3))
    given = facts(now=other, golden=Comparison(26, 0.1), joined=Comparison(9, 0.1))
    found = check("model_change", replace(given, now=replace(other, vectors=vectors())))
    named = f"weights_digest: {'a' * 24}… -> {'b' * 24}…; pooling: mean -> cls"
    assert (found.ok, found.measured, found.allowed) == (False, named, "none")
    assert found.reason.startswith(f"model_change: {named} (gate.allow_model_change=false); ")
    allowed = check_run(replace(given, now=replace(other, vectors=vectors())), GateConfig(allow_model_change=True), 0)
    assert not failed(allowed)
    compared = {item.name: item for item in allowed}
    assert [name for name, item in compared.items() if item.skipped] == ["golden", "sample", "mean_vector"]
    assert "the model, or its use, is not the last snapshot's" in compared["golden"].note
    assert (compared["model_change"].measured, compared["model_change"].allowed) == (named, "any")
    assert "row_change" not in [item.name for item in allowed if item.skipped]


def test_the_same_model_elsewhere_is_the_same() -> None:
    found = check("model_change", facts())
    assert (found.ok, found.skipped, found.measured) == (True, False, "none")
    prompted = figures(model=MODEL | {"prompt": "query: "})
    assert prompted.changes(figures(model=MODEL | {"prompt": ""})) == ["prompt: '' -> query: "]
    assert prompted.changes(figures()) == figures().changes(prompted) == [], "a fact that only one of them tells"


def unit(vectors_ND: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    return (vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)).astype(np.float32)


def first_night(now: Figures) -> GateFacts:
    return facts(now=now, last=None, alone="nothing is published yet")


def nearly_equal(count: int, noise: float, dim: int = 8) -> np.ndarray[Any, np.dtype[np.float32]]:
    return unit(np.ones(dim) + noise * np.random.default_rng(3).standard_normal((count, dim)))


@pytest.mark.parametrize(
    "given", [nearly_equal(50, 1e-3), nearly_equal(50, 3.0), unit(np.eye(8)[:3]), unit([[1.0, 0], [-1, 0]])]
)
def test_the_distance_of_pairs_is_that_of_all_pairs(given: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    made = VectorFigures.of(np.concatenate([5 * given, np.full((2, given.shape[1]), np.nan, np.float32)]))
    assert made is not None
    assert made.pair_distance is not None
    exact = given / np.linalg.norm(given.astype(np.float64), axis=1, keepdims=True)
    cosines = exact @ exact.T
    pairs = cosines[np.triu_indices(len(given), 1)]
    assert made.pair_distance == pytest.approx(1 - pairs.mean(), rel=1e-4, abs=1e-9)


@pytest.mark.parametrize(("noise", "ok"), [(0.0, False), (1e-4, False), (1e-3, False), (0.01, True), (1.0, True)])
def test_vectors_that_are_nearly_the_same_fail_on_the_first_night(noise: float, ok: bool) -> None:
    now = figures(vectors=VectorFigures.of(nearly_equal(200, noise), texts=200))
    found = check("spread", first_night(now))
    assert (found.ok, found.skipped, found.allowed) == (ok, False, 0.00001)
    if not ok:
        assert found.reason.startswith("spread: 200 vectors looked at, of 200 different texts, have a mean cosine of ")
        assert "(gate.min_spread=1e-05); the model gives nearly the same vector for every text" in found.reason
    assert check("spread", first_night(now), min_spread=0).ok


def test_one_text_in_all_rows_is_told_as_such() -> None:
    now = figures(vectors=VectorFigures.of(nearly_equal(200, 0.0), texts=1))
    assert "all rows have the same text: look at the column that corpus.text names" in check("spread", first_night(now)).mend


@pytest.mark.parametrize(
    "given", [None, VectorFigures.of(nearly_equal(15, 0.0), texts=15), VectorFigures.of(nearly_equal(1, 0.0))]
)
def test_a_trial_of_a_few_rows_has_no_spread(given: VectorFigures | None) -> None:
    assert check("spread", first_night(figures(vectors=given))).skipped
