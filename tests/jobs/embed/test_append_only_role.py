"""A real S3 role that may list, read and put, and not delete: two nights work, with a warning, and no probe stays."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import s3fs
import yaml

from tests.local_replicas import local_embed
from tests.s3_server.fixture import S3Server
from workers.errors import AccessDenied
from workers.storage.atomicity import probe_atomic_create
from workers.storage.store import Store

ROWS = 40
USER = "appender"

pytestmark = [pytest.mark.s3, pytest.mark.slow]


@pytest.fixture(scope="module")
def appender(s3_server: S3Server, s3_bucket: str) -> Iterator[dict[str, Any]]:
    """storage_options of a user whom the bucket's policy allows everything that a run needs but s3:DeleteObject."""
    if s3_server.ceph is None:
        pytest.skip("users can be made on our own server only")
    key, secret = secrets.token_hex(10).upper(), secrets.token_hex(20)
    s3_server.ceph.admin(
        "user", "create", f"--uid={USER}", f"--display-name={USER}", f"--access-key={key}", f"--secret-key={secret}"
    )
    allowed = ["s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"AWS": [f"arn:aws:iam:::user/{USER}"]},
                "Action": allowed,
                "Resource": [f"arn:aws:s3:::{s3_bucket}", f"arn:aws:s3:::{s3_bucket}/*"],
            }
        ],
    }
    s3fs.S3FileSystem().call_s3("put_bucket_policy", Bucket=s3_bucket, Policy=json.dumps(policy))
    yield {"key": key, "secret": secret}
    s3_server.ceph.admin("user", "rm", f"--uid={USER}")


def objects_of(bucket: str, prefix: str) -> list[str]:
    return sorted(s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False).find(f"{bucket}/{prefix}"))


def test_the_server_refuses_the_deletion_and_nothing_else(appender: dict[str, Any], s3_bucket: str) -> None:
    store = Store(f"s3://{s3_bucket}/probed", appender)
    store.put("runs/x", b"1")
    assert store.read("runs/x") == b"1"
    with pytest.raises(AccessDenied, match="access denied"):
        store.delete("runs/x")
    assert not probe_atomic_create(store, "runs/probe")
    assert objects_of(s3_bucket, "probed") == [f"{s3_bucket}/probed/runs/x"]


def test_two_nights_are_published(tmp_path: Path, small_model: Path, appender: dict[str, Any], s3_bucket: str) -> None:
    (tmp_path / "corpus").mkdir()
    config = {
        "corpus": {"uri": f"{tmp_path}/corpus/", "id": "id"},
        "model": {"name": str(small_model), "precision": "float32"},
        "output": {"uri": f"s3://{s3_bucket}/out", "keep_snapshots": 1, "storage_options": appender},
        "cluster": {"replicas": 1, "cpus_per_replica": 1},
    }
    (tmp_path / "q.yaml").write_text(yaml.safe_dump(config))
    for night in (1, 2):
        lines = [json.dumps({"id": str(line), "text": f"text {line}"}) for line in range(ROWS + night)]
        (tmp_path / "corpus" / "a.jsonl").write_text("\n".join(lines) + "\n")
        began = time.monotonic()
        ended = local_embed(tmp_path / "q.yaml")
        print(f"night {night}: exit {ended.rc} after {time.monotonic() - began:.1f} s")
        assert ended.rc == 0, ended.log
        assert ended.summary["documents"] == ROWS + night
        assert "this role may not delete" in ended.log
        assert "give it DeleteObject (s3:DeleteObject)" in ended.log
        assert objects_of(s3_bucket, "out/runs/probe") == []
    assert "old snapshots were not all deleted" in ended.log or "was not deleted" in ended.log
