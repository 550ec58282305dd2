"""Configurations that cannot work: exit 2, one line that names the setting and the mend, nothing on stdout, nothing written.

No cluster is asked before the request has proved possible: `ray` cannot be imported in any of them. Cases that differ in a
setting alone call the command's entry point inside this process, the others are the real command in a process of its own.
S3 endpoints that are dead, or accept and never answer, need no server.
"""

from __future__ import annotations

import itertools
import json
import os
import pickle
import re
import socket
import sys
import time
import tracemalloc
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.cli import main
from jobs.config import load_config
from tests.conftest import ROOT, Cli, CliResult, S3Server
from tests.workers.models import copy_model, edit_json
from workers.errors import UsageError

BOUNDED_SECONDS = 200.0
KEYS = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "not-a-secret", "AWS_REGION": "us-east-1"}
BILLION_LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise("abcdefghij")
)


@dataclass
class Desk:
    """A configuration that works, a place for the output, and the command."""

    folder: Path
    cli: Cli
    sections: dict[str, Any]
    no_ray: Path

    @property
    def output(self) -> Path:
        return self.folder / "out"

    def configuration(self, text: str | None = None) -> Path:
        config = self.folder / f"{uuid.uuid4().hex}.yaml"
        config.write_text(yaml.safe_dump(self.sections) if text is None else text)
        return config

    def embed(self, *overrides: str, **env: str | None) -> CliResult:
        return self.run(self.configuration(), *overrides, **env)

    def run(self, config: Path, *overrides: str, **env: str | None) -> CliResult:
        return self.cli("embed", config, *overrides, env={"PYTHONPATH": f"{self.no_ray}{os.pathsep}{ROOT}", **env})

    def refused(self, result: CliResult, *words: str) -> None:
        """Each of `words` is a pattern that the one line must match."""
        assert result.rc == 2, result
        assert result.stdout == ""
        assert result.stderr.count("\n") == 1, result.stderr
        assert result.stderr.startswith("reembed: ")
        assert "not-a-secret" not in result.stderr
        for word in words:
            assert re.search(word, result.stderr), (word, result.stderr)
        assert not self.output.exists(), list(self.output.rglob("*"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "corpus"
    folder.mkdir()
    rows = [{"id": f"d{number}", "text": f"document {number}", "lang": "en"} for number in range(5)]
    (folder / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def desk(tmp_path: Path, cli: Cli, corpus: Path, minilm: Path) -> Desk:
    no_ray = tmp_path / "no_ray"
    no_ray.mkdir()
    (no_ray / "ray.py").write_text("raise RuntimeError('nobody may import ray here')\n")
    sections = {
        "corpus": {"uri": f"{corpus}/", "id": "id", "text": "text", "keep": ["lang"]},
        "model": {"name": str(minilm)},
        "output": {"uri": str(tmp_path / "out")},
    }
    return Desk(tmp_path, cli, sections, no_ray)


Inside = Callable[..., CliResult]


@pytest.fixture
def inside(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Inside:
    """The command in this process; what it logs would stand on stderr as well."""
    for module in ("ray", "jobs.pool.replica_pool", "jobs.embed.session"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.chdir(desk.folder)

    def run(*overrides: str, text: str | None = None) -> CliResult:
        with pytest.raises(SystemExit) as ended:
            main(["embed", str(desk.configuration(text)), *overrides])
        stdout, stderr = capsys.readouterr()
        return CliResult(int(ended.value.code or 0), stdout, caplog.text + stderr)

    return run


@pytest.mark.slow
def test_the_guard_works_and_so_does_the_configuration(desk: Desk) -> None:
    """Otherwise all below could fail for another reason: unspoilt, it comes as far as ray."""
    result = desk.embed("cluster.address=local")
    assert result.rc == 1
    assert "nobody may import ray here" in result.stderr


SETTINGS = {
    "unknown key": (["model.poolng=cls"], [r"\.yaml: unknown key model\.poolng; did you mean pooling\?"]),
    "unknown section": (["modle.name=x"], [r"unknown key modle; did you mean model\?"]),
    "wrong type": (["run.max_attempts=three"], [r"run\.max_attempts: .*integer.*'three'"]),
    "one of two types": (["model.normalize=maybe"], [r"model\.normalize: .*boolean or 'auto' \(got 'maybe'\)"]),
    "text for a list": (["corpus.keep=lang"], [r"corpus\.keep: .*list.*'lang'"]),
    "no such value": (["model.pooling=median"], [r"model\.pooling: .*'cls', 'mean'.*'median'"]),
    "no replicas": (["cluster.replicas=0"], [r"cluster\.replicas: .*greater than or equal to 1"]),
    "negative GPUs": (["cluster.gpus_per_replica=-1"], [r"cluster\.gpus_per_replica: .*0"]),
    "unit": (["run.shard_bytes=64XB"], [r"run\.shard_bytes: .*XB"]),
    "no override": (["model.pooling"], [r"'model\.pooling': write it as section\.key=value"]),
    "no date": (["run.max_attempts=2026-02-31"], [r"override run\.max_attempts=.*not valid YAML.*quote"]),
    "secret in the way": (["corpus.storage_options=not-a-secret"], [r"corpus\.storage_options: .*dictionary"]),
    "secret in an override": (["corpus.storage_options.secret=[not-a-secret"], [r"override corpus\.storage_options"]),
    "partition not kept": (["output.partition_by=[url]"], [r"output\.partition_by: url .*candidates: lang.*corpus\.keep"]),
    "no such kept column": (["corpus.keep=[lnag]"], [r"corpus\.keep: .*lnag; did you mean lang\?"]),
    "no such text column": (["corpus.text=body"], [r"corpus\.text: .*body; known columns: id, lang, text"]),
    "no such id column": (["corpus.id=key"], [r"corpus\.id: .*key; known columns"]),
    "column of the output": (["corpus.keep=[embedding]"], [r"corpus\.keep: embedding .*leave it out"]),
    "no corpus": (["corpus.uri=./nowhere/"], [r"corpus\.uri \S*nowhere/: no objects there; correct the uri"]),
    "no such scheme": (["corpus.uri=gopher://a/b"], [r"corpus\.uri .*gopher.*scheme"]),
    "no such model": (["model.name=./nowhere"], [r"model\.name=\./nowhere: no such folder; correct the path"]),
    "no such hub model": (["model.name=no-such/model"], [r"model\.name=no-such/model: not in the hub cache.*download"]),
    "revision of a folder": (["model.revision=main"], [r"model\.revision=main: .*remove it"]),
    "truncate_dim": (["model.truncate_dim=1000"], [r"model\.truncate_dim=1000: .*384"]),
    "binary": (["output.vector=binary", "model.truncate_dim=13"], [r"output\.vector: binary .*13.*multiple of 8"]),
    "overlap": (["model.long_text=chunks", "model.chunk_overlap=254"], [r"model\.chunk_overlap=254: .*254 tokens.*lower"]),
    "too many tokens": (["model.max_tokens=4096"], [r"model\.max_tokens=4096: .*512.*lower it"]),
    "no weights for it": (["model.pooling=mean_lstm"], [r"model\.pooling=mean_lstm: .*LSTM.*pooling=mean"]),
    "no cluster": (["cluster.address=127.0.0.1:1"], [r"cluster\.address=127\.0\.0\.1:1: no Ray cluster there.*ray start"]),
    "no cluster of clients": (["cluster.address=ray://127.0.0.1:1"], [r"cluster\.address=ray://.*no Ray cluster there"]),
    "no address": (["cluster.address=locl"], [r"cluster\.address=locl: write auto, local, host:port"]),
}  # fmt: skip


@pytest.mark.parametrize("case", SETTINGS)
def test_settings(desk: Desk, inside: Inside, case: str) -> None:
    overrides, words = SETTINGS[case]
    desk.refused(inside(*overrides), *words)


FILES = {
    "malformed": ("corpus: [unclosed\nmodel: {", [r"not valid YAML: .*\(line 2, column 6\)"]),
    "alias": ("a: &a [1]\nb: [*a]\n", [r"not valid YAML: aliases \(\*name\) are not allowed \(line 2"]),
    "bomb": (BILLION_LAUGHS, [r"not valid YAML: aliases"]),
    "tag": ("corpus: !!python/object/apply:os.mkdir [out]\n", [r"not valid YAML: .*python/object/apply"]),
    "key twice": ("corpus: {}\ncorpus: {}\n", [r"'corpus' stands twice \(line 2"]),
    "key is a list": ("? [a, b]\n: c\n", [r"not valid YAML: "]),
    "empty": ("", [r"must be a mapping of sections"]),
    "no output": ("corpus: {uri: x}\n", [r"output is required"]),
    "secret in a broken line": ("corpus: {storage_options: {secret: not-a-secret}\n", [r"not valid YAML: .*\(line 2"]),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_configuration_files(desk: Desk, inside: Inside, case: str) -> None:
    text, words = FILES[case]
    desk.refused(inside(text=text), r"reembed: (configuration )?\S+\.yaml: ", *words)


@pytest.mark.slow
def test_as_a_user_sees_it(desk: Desk) -> None:
    desk.refused(desk.embed("model.poolng=cls"), *SETTINGS["unknown key"][1])
    desk.refused(desk.embed("cluster.address=127.0.0.1:1"), *SETTINGS["no cluster"][1])


@pytest.mark.slow
def test_no_configuration_file(desk: Desk) -> None:
    desk.refused(desk.run(Path("nowhere.yaml")), r"configuration nowhere\.yaml: No such file.*give the path of a YAML file")
    desk.refused(desk.run(desk.folder), r"configuration \S+: Is a directory; give the path of a YAML file")


@pytest.mark.parametrize("text", [BILLION_LAUGHS, "corpus: !!python/object/apply:os.mkdir [out]\n", "- " * 100_000])
def test_yaml_bombs_cost_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_text(text)
    tracemalloc.start()
    began = time.monotonic()
    with pytest.raises(UsageError):
        load_config(path)
    assert time.monotonic() - began < 20
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()


class _Mischief:
    """What a pickle may do when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.slow
def test_models_that_are_never_loaded(desk: Desk, minilm: Path, tmp_path: Path) -> None:
    pickled = copy_model(minilm, tmp_path / "pickled")
    (pickled / "model.safetensors").unlink()
    (pickled / "pytorch_model.bin").write_bytes(pickle.dumps(_Mischief(desk.output)))
    desk.refused(
        desk.embed(f"model.name={pickled}"), r"model\.name=.*pickled.*pytorch_model\.bin.*never loaded.*safetensors"
    )
    remote = copy_model(minilm, tmp_path / "remote")
    edit_json(remote / "config.json", model_type="mine", auto_map={"AutoModel": "mine.Model"})
    desk.refused(desk.embed(f"model.name={remote}"), r"model\.name=.*remote code.*never run.*choose")
    partial = copy_model(minilm, tmp_path / "partial")
    (partial / "tokenizer.json").unlink()
    (partial / "vocab.txt").unlink(missing_ok=True)
    desk.refused(desk.embed(f"model.name={partial}"), r"model\.name=.*no tokenizer files")


@pytest.mark.slow
def test_an_output_that_is_a_file(desk: Desk) -> None:
    path = desk.folder / "taken"
    path.write_text("mine")
    desk.refused(desk.embed(f"output.uri={path}"), r"output\.uri .*taken.*choose another uri")
    assert path.read_text() == "mine"


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Accepts connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield listener.getsockname()[1]


@pytest.mark.slow
def test_unreachable_endpoints(desk: Desk, silent_port: int) -> None:
    """Side by side: each of them mostly waits."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, not listening: refused at once
        ports = {"refuses": closed.getsockname()[1], "silent": silent_port}

        def attempt(case: tuple[str, str]) -> tuple[CliResult, float]:
            setting, port = case
            began = time.monotonic()
            endpoint = f"{setting.partition('.')[0]}.storage_options={{endpoint_url: 'http://127.0.0.1:{ports[port]}'}}"
            return desk.embed(f"{setting}=s3://bucket/folder/", endpoint, **KEYS), time.monotonic() - began

        cases = [(setting, port) for setting in ("corpus.uri", "output.uri", "model.name") for port in ports]
        with ThreadPoolExecutor(len(cases)) as pool:
            results = list(pool.map(attempt, cases))
    for (setting, _), (result, seconds) in zip(cases, results, strict=True):
        section = setting.partition(".")[0]
        desk.refused(result, rf"{setting}: the endpoint does not answer", rf"{section}\.storage_options\.endpoint_url")
        assert seconds < BOUNDED_SECONDS


@pytest.mark.parametrize("setting", ["corpus.uri", "output.uri", "model.name"])
def test_refusals_of_a_store(desk: Desk, setting: str, s3_server: S3Server, s3_bucket: str) -> None:
    section = setting.partition(".")[0]
    here = f"{setting}=s3://{s3_bucket}/nothing/"
    wrong = desk.embed(here, **KEYS)
    desk.refused(
        wrong, rf"{setting}[ =]s3://{s3_bucket}/nothing/.*access denied.*credentials", rf"{section}\.storage_options"
    )
    none = desk.embed(here, AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None, AWS_EC2_METADATA_DISABLED="true")
    desk.refused(none, rf"{setting}[ =]s3://.*access denied.*credentials", rf"{section}\.storage_options")
    missing = desk.embed(f"{setting}=s3://no-such-bucket-{uuid.uuid4().hex[:8]}/x/")
    desk.refused(missing, rf"{setting}[ =]s3://no-such-bucket\S*: the bucket does not exist; create it")
    if section != "output":
        desk.refused(desk.embed(here), rf"{setting}[ =]s3://{s3_bucket}/nothing/: no .*there")


def test_nothing_is_written_to_a_bucket(desk: Desk, s3_bucket: str) -> None:
    """What is wrong is found after the output was looked at, and still nothing stands there."""
    import s3fs

    output = f"output.uri=s3://{s3_bucket}/embeddings/"
    desk.refused(desk.embed(output, "corpus.text=body"), r"corpus\.text: ")
    desk.refused(desk.embed(output, "cluster.address=127.0.0.1:1"), r"cluster\.address=")
    fs = s3fs.S3FileSystem()
    fs.invalidate_cache()
    assert fs.find(s3_bucket) == []
