"""The gate on real runs: a bad snapshot never replaces a good one, says why, and is judged again without being embedded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.drivers import Ended, Made, Snapshot, committed
from tests.local_replicas import local_embed, local_run
from workers.engine.device.in_flight import Pending
from workers.records.tokens import EncodedTexts, TokenizedTexts
from workers.replica.replica import Replica
from workers.replica.settings import ResolvedSettings

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.spread]

NO_CLUSTER = "cluster.address=127.0.0.1:1"  # for what must not need one
Document = dict[str, Any]


class Night:
    """The night after `made`: its output, its configuration, and a corpus that may be changed."""

    def __init__(self, made: Made, folder: Path) -> None:
        self.made = made
        self.output = made.copy(folder)
        self.corpus = shutil.copytree(made.source, folder / "corpus")
        self.config = folder / "run.yaml"
        self.config.write_text(made.config.read_text().replace(str(made.source), str(self.corpus)))

    def change(self, change: Callable[[Document], Document | None]) -> None:
        """Each document becomes what `change` says, or goes."""
        for path in self.corpus.iterdir():
            changed = [change(json.loads(line)) for line in path.read_text().splitlines()]
            path.write_text("".join(json.dumps(document) + "\n" for document in changed if document))

    def embed(self, *overrides: str) -> Ended:
        return local_embed(self.config, f"output.uri={self.output}", "run.reuse=off", "cluster.replicas=1", *overrides)

    def current(self) -> str:
        run_id: str = json.loads((self.output / "CURRENT.json").read_text())["run_id"]
        return run_id


@pytest.fixture
def night(made: Made, tmp_path: Path) -> Night:
    return Night(made, tmp_path)


def failed(ended: Ended) -> list[str]:
    """Names of the checks; the summary, the log and the exit status must agree that they failed."""
    summary = ended.summary
    names = [check["name"] for check in summary["gate"] if not check["ok"]]
    assert len(summary["gate"]) == 12
    assert (ended.rc, summary["state"], summary["published"]) == ((3, "refused", False) if names else (0, "complete", True))
    assert [reason.partition(":")[0] for reason in summary["reasons"]] == names
    assert all(f"not published: {reason}" in ended.log for reason in summary["reasons"])
    return names


def spoiled(encoded: EncodedTexts, device: str) -> EncodedTexts:
    """What leaves a device that has proved itself and then fails: noise of unit length, or NaN."""
    noise = np.random.default_rng(7).standard_normal(encoded.vectors.shape).astype(np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    return replace(encoded, vectors=np.full_like(noise, np.nan) if device == "nan" else noise)


@pytest.mark.parametrize(
    ("device", "reuse", "expected"),
    [
        ("noise", "off", ["golden", "sample", "mean_vector"]),
        ("noise", "auto", ["golden", "sample"]),  # every vector is reused, and the probes tell
        ("nan", "off", ["quarantined"]),
    ],
)
def test_a_device_that_fails_at_work(
    device: str, reuse: str, expected: list[str], night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    night.change(lambda document: document | {"kind": document["kind"][::-1]})  # objects of the same size, elsewhere
    configure = Replica.configure

    def configure_and_fail(replica: Replica, resolved: ResolvedSettings) -> None:
        configure(replica, resolved)
        submit = replica._encoder.submit

        def spoil(tokens: TokenizedTexts) -> Pending:
            encoded = spoiled(submit(tokens).result(), device)
            return Pending(lambda: True, lambda: encoded)

        replica._encoder.submit = spoil  # type: ignore[method-assign]

    monkeypatch.setattr(Replica, "configure", configure_and_fail)
    ended = night.embed(f"run.reuse={reuse}")
    assert set(expected) <= set(failed(ended)), ended.log
    assert ended.summary["reused_rows"] == (60 if reuse == "auto" else 0)
    assert night.current() == night.made.ended.summary["run_id"]
    snapshot = Snapshot.read(str(night.output / "data" / night.current()))
    assert snapshot.same_bits(night.made.snapshot)


def test_a_kept_column_that_no_row_had(night: Night) -> None:
    """Objects beyond what a sample reads whole: only reading tells that the column is nowhere."""
    night.change(lambda document: document | {"filler": "x" * 100_000})
    shards = "run.shard_bytes=512KiB"
    refused = night.embed(shards, "corpus.keep=[kind, knid]")
    assert failed(refused) == ["kept"], refused.log
    assert "no sampled record has knid; did you mean kind?" in refused.log
    assert refused.summary["reasons"][0].startswith("kept: no row had `knid` (corpus.keep)")
    assert failed(night.embed(shards, "corpus.keep=[kind, knid]", "corpus.schema={knid: string}")) == []
    carried = night.embed(shards, "corpus.keep=[kind, knid]", "corpus.schema={knid: string}", "run.reuse=auto")
    assert failed(carried) == [], carried.log


def test_half_of_the_corpus_is_missing(night: Night) -> None:
    gone = set(night.made.ids[::2])
    night.change(lambda document: None if document["id"] in gone else document)
    refused = night.embed()
    assert failed(refused) == ["row_change"], refused.log
    checks = {check["name"]: check for check in refused.summary["gate"]}
    assert [name for name, check in checks.items() if check["skipped"]] == [], "all was compared"
    assert checks["golden"]["measured"] > 0.99999
    assert checks["sample"]["measured"] > 0.99999
    assert "30 documents, 60 in the last snapshot: 50.0% fewer (gate.max_row_change=0.3)" in refused.summary["reasons"][0]
    assert night.current() == night.made.ended.summary["run_id"]

    again = night.embed(NO_CLUSTER)
    assert failed(again) == ["row_change"], "judged again from what is stored"
    assert again.summary["run_id"] == refused.summary["run_id"]
    told = local_run("embed", night.config, f"output.uri={night.output}", "run.reuse=off", NO_CLUSTER)
    assert "gate        failed: row_change" in told.stdout
    receipts = committed(night.output)
    allowed = night.embed(NO_CLUSTER, "gate.max_row_change=0.6")
    assert failed(allowed) == [], allowed.log
    assert night.current() == refused.summary["run_id"]
    assert committed(night.output) == receipts, "nothing was embedded again"
    assert allowed.summary["attempts"] == refused.summary["attempts"]


def test_all_texts_are_cut_off(night: Night) -> None:
    night.change(lambda document: document | {"text": f"{document['text']} " * (2000 // len(document["text"]) + 1)})
    ended = night.embed()
    assert "truncated" in failed(ended), ended.log
    (reason,) = (reason for reason in ended.summary["reasons"] if reason.startswith("truncated: "))
    assert "of 60 documents lost tokens" in reason


def test_a_row_counted_twice(night: Night) -> None:
    """A receipt that was altered, of a run that is about to be published; mended as the reason says."""
    (night.output / "CURRENT.json").unlink()
    shutil.rmtree(night.corpus)
    shutil.copy(night.made.config, night.config)
    path = Path(sorted(committed(night.output))[0])
    receipt = json.loads(path.read_text())
    path.write_text(json.dumps(receipt | {"documents": receipt["documents"] + 1}))
    ended = night.embed(NO_CLUSTER)
    assert failed(ended) == ["accounting"], ended.log
    rows = receipt["rows_read"]
    assert f"shard {receipt['shard']} (" in ended.summary["reasons"][0]
    assert f"{rows} rows read, {rows + 1} embedded or quarantined" in ended.summary["reasons"][0]
    assert not (night.output / "CURRENT.json").exists()
    path.unlink()
    for file in receipt["files"]:
        (night.output / file["path"]).unlink()
    mended = night.embed()
    assert failed(mended) == [], mended.log
    assert Snapshot.read(mended.summary["data"]).same_bits(night.made.snapshot)
