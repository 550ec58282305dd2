"""Errors come back whole from another process."""

from __future__ import annotations

import pickle

import pytest

from workers import errors
from workers.errors import ObjectChanged, ObjectError, ObjectMissing, ReembedError
from workers.host.isolated_process import IsolatedProcess

KINDS = sorted((kind for kind in vars(errors).values() if isinstance(kind, type)), key=lambda kind: kind.__name__)


def _made(kind: type[ReembedError]) -> ReembedError:
    return kind("s3://bucket/a.jsonl", "truncated gzip", 7) if issubclass(kind, ObjectError) else kind("out of luck")


def _raise(kind: type[ReembedError]) -> None:
    raise _made(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_of_the_project_survives_it(kind: type[ReembedError]) -> None:
    back = pickle.loads(pickle.dumps(_made(kind)))
    assert (type(back), str(back), vars(back)) == (kind, str(_made(kind)), vars(_made(kind)))


def test_every_error_of_the_project_comes_back_from_an_isolated_process() -> None:
    with IsolatedProcess() as beside:
        for kind in KINDS:
            with pytest.raises(kind) as caught:
                beside.call(_raise, kind)
            assert (type(caught.value), str(caught.value)) == (kind, str(_made(kind)))


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
