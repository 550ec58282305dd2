"""Errors come back whole from another process."""

from __future__ import annotations

import pickle

import pytest

from workers.errors import ObjectChanged, ObjectError, ObjectMissing


@pytest.mark.parametrize("kind", [ObjectError, ObjectMissing, ObjectChanged])
def test_an_object_error_survives_the_way_between_processes(kind: type[ObjectError]) -> None:
    sent = kind("s3://bucket/a.jsonl", "truncated gzip", 7)
    back = pickle.loads(pickle.dumps(sent))
    assert type(back) is kind
    assert (str(back), back.object_uri, back.reason, back.rows_read) == (
        str(sent),
        "s3://bucket/a.jsonl",
        "truncated gzip",
        7,
    )
