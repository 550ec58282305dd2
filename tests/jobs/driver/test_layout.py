"""Output and corpus lie apart: what is refused is exactly what a later listing of the corpus would find of the output."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.driver.layout import _OURS, require_apart, require_lasting
from workers.config import CorpusConfig, OutputConfig
from workers.errors import UsageError
from workers.storage.objects import list_objects


def _refused(corpus: str | list[str], output: str, options: dict[str, object] | None = None) -> str:
    """The refusal, '' when there is none."""
    given = CorpusConfig.model_validate({"uri": corpus, "storage_options": options or {}})
    try:
        require_apart(given, OutputConfig(uri=output))
    except UsageError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("corpus", "output"),
    [
        ("s3://b/corpus/", "s3://b/corpus/out"),
        ("s3://b/corpus", "s3://b/corpus/out/"),
        ("s3a://b/corpus/", "s3://b/corpus/out"),
        ("s3://b/corpus/", "s3://b/corpus"),
        ("s3://b/corpus", "s3://b/corpus/"),
        ("s3://b/", "s3://b/out"),
        ("s3://b", "s3://b/out"),
        ("s3://b/out/corpus/", "s3://b/out"),
        ("s3://b/out/a.jsonl", "s3://b/out"),
        ("s3://b/out/*.jsonl", "s3://b/out"),
        ("s3://b/**/*.parquet", "s3://b/out"),
        ("s3://b/*/data/*/*.parquet", "s3://b/out"),
        (["s3://b/other/", "s3://b/corpus/"], "s3://b/corpus/x"),
        ("gs://b/corpus/", "gs://b/corpus/out"),
        ("/data/corpus/", "/data/corpus/out"),
        ("/data/corpus", "/data/corpus/../corpus/out"),
        ("file:///data/corpus/", "/data/corpus/out"),
        ("/data/corpus/", "file:///data/corpus/out"),
        ("/data/corpus/", "/data"),
        ("/data/corpus/", "/"),
        ("/", "/data"),
    ],
)
def test_one_inside_the_other_is_refused(corpus: str | list[str], output: str) -> None:
    told = _refused(corpus, output)
    assert "output.uri" in told
    assert "a folder of its own" in told


@pytest.mark.parametrize(
    ("corpus", "output"),
    [
        ("s3://b/corpus", "s3://b/corpus-out"),
        ("s3://b/corpus/", "s3://b/corpus-out/"),
        ("s3://b/corpus-in/", "s3://b/corpus"),
        ("s3://one/corpus/", "s3://two/corpus/out"),
        ("gs://b/corpus/", "s3://b/corpus/out"),
        ("s3://b/corpus/*.jsonl", "s3://b/corpus/out"),  # the glob does not go down into folders
        ("s3://b/corpus/2026*/*.jsonl", "s3://b/corpus/out"),
        ("s3://b/corpus/", "s3://b/corpus/_embeddings"),  # hidden names are not listed
        ("s3://b/", "s3://b/.reembed/out"),
        ("s3://b/old/data/20260101T000000Z-00000000/", "s3://b/new"),  # another output's snapshot as the corpus
        ("/data/corpus.jsonl", "/data/out"),
        ("/data/corpus/", "/data/corpus-out"),
        ("data/corpus/", "data/out"),
    ],
)
def test_neighbours_are_legal(corpus: str, output: str) -> None:
    assert _refused(corpus, output) == ""


def test_the_same_bucket_of_another_store_is_legal() -> None:
    assert _refused("s3://b/corpus/", "s3://b/corpus/out", {"endpoint_url": "http://other:9000"}) == ""
    assert _refused("s3://b/corpus/", "s3://b/corpus/out", {"client_kwargs": {"endpoint_url": "http://other:9000"}}) == ""


def test_links_relative_paths_and_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "link").symlink_to("corpus")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for corpus in (f"{tmp_path}/corpus/", "corpus/", "corpus", "./corpus/", "link/", "~/corpus/"):
        for output in (f"{tmp_path}/corpus/out", "corpus/out", "link/out", "~/corpus/out", "link"):
            assert _refused(corpus, output), (corpus, output)
    assert _refused("corpus/", "corpus-out") == ""


@pytest.mark.parametrize("below", ["out", "_out", ".out", "a/out", "_a/out", "k=v", "_k=v/out"])
@pytest.mark.parametrize("corpus", ["", "*", "*.json", "**", "*/*", "**/*.parquet", "o*/**", "*/data/*/*", "out/runs/**"])
def test_as_the_real_listing_of_a_real_output_would_find_it(tmp_path: Path, corpus: str, below: str) -> None:
    for ours in _OURS:
        path = tmp_path / "corpus" / below / ours
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    uri = f"{tmp_path}/corpus/{corpus}"
    try:
        listed = bool(list_objects(uri, {}))
    except (FileNotFoundError, UsageError):  # nothing there, or nothing but hidden names
        listed = False
    assert bool(_refused(uri, f"{tmp_path}/corpus/{below}")) == listed


@pytest.mark.parametrize("uri", ["out", "./out", "out/rel", "file://out"])
def test_a_relative_output_in_a_ray_job(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    require_lasting(uri)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(UsageError, match=r"a relative folder, and this is a Ray job: .* absolute path that all nodes have"):
        require_lasting(uri)


@pytest.mark.parametrize("uri", ["/srv/out", "~/out", "file:///srv/out", "s3://b/out", "gs://b/out"])
def test_other_outputs_in_a_ray_job(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    require_lasting(uri)
