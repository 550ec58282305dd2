"""A hundred mutated configurations, environments and URIs. More: python -m tests.fuzz.settings --count 2000."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.fuzz.settings import BAD, Outcome, case, try_seeds

SEED, COUNT = 20_261, 120
DEADLINE = 30.0


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """An S3 endpoint where nothing listens; no credentials but the ones a case gives."""
    for name, value in (("AWS_ENDPOINT_URL", "http://127.0.0.1:9"), ("AWS_EC2_METADATA_DISABLED", "true")):
        monkeypatch.setenv(name, value)


@pytest.mark.slow
def test_each_is_done_or_refused_in_one_line(nowhere: None, tmp_path: Path, small_model: Path) -> None:
    told = try_seeds(range(SEED, SEED + COUNT), small_model, tmp_path / "work", DEADLINE)
    bad = [item for item in told if item.outcome in BAD]
    assert bad == [], f"python -m tests.fuzz.settings --count 1 --seed {bad[0].seed}"
    counts = Counter(item.outcome for item in told)
    assert counts[Outcome.REFUSED] > COUNT / 3, "the mutations are real"
    assert counts[Outcome.DONE] > COUNT / 50, "and not all of them matter"


def test_replays_from_its_seed(tmp_path: Path) -> None:
    assert [case(seed, tmp_path, tmp_path) for seed in range(50)] == [case(seed, tmp_path, tmp_path) for seed in range(50)]
