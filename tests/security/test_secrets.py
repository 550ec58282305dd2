"""Secrets are planted wherever a user may put them; a run succeeds, loses a replica, or fails; they are found nowhere.

Where is searched: every object under the output's prefix, the local folders (temporary files, caches, Ray's session with
all its logs), stdout and stderr, and while the run works the command lines of all its processes, the cluster's own records
and the memory of Ray's servers. How: tests/security/hunting.py. Storage is a real S3 server with a user of its own.
"""

from __future__ import annotations

import base64
import gzip
import os
import re
import signal
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
import yaml

from tests.conftest import S3Server
from tests.drivers import Driver, Ended, docstrings_corpus
from tests.security.hunting import Hunt, Secret

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.s3]

RAY_SERVERS = ("gcs_server", "raylet/raylet")
IN_THE_ENVIRONMENT = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "DATABASE_PASSWORD", "AZURE_STORAGE_KEY")


@dataclass
class Vault:
    """A user of the S3 server, a bucket of that user with a corpus, and secrets elsewhere that nothing needs."""

    folder: Path
    ray: Path
    uid: str
    bucket: str
    options: dict[str, Any]
    key: Secret
    model: Path
    server: S3Server
    planted: dict[str, Secret] = field(default_factory=dict)

    def secret(self, name: str) -> Secret:
        return self.planted.setdefault(name, Secret.drawn(name))

    @property
    def environment(self) -> dict[str, str]:
        """Secrets that a shell may hold; proxies that are not on the way to 127.0.0.1."""
        proxy = f"http://me:{self.secret('proxy password').in_url}@proxy.invalid:3128"
        return {name: self.secret(name).value for name in IN_THE_ENVIRONMENT} | {
            "HTTP_PROXY": proxy, "HTTPS_PROXY": proxy, "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost",
            "AWS_ACCESS_KEY_ID": "nobody", "AWS_ENDPOINT_URL": "http://127.0.0.1:1", "RAY_TMPDIR": str(self.ray),
            "TMPDIR": str(self.folder / "tmp"), "HOME": str(self.folder / "home"), "RAY_AUTH_MODE": "disabled",
        }  # fmt: skip

    def sections(self) -> dict[str, Any]:
        return {
            "corpus": {
                "uri": f"s3://{self.bucket}/corpus/",
                "id": "id",
                "keep": ["package"],
                "storage_options": self.options,
            },
            "model": {"name": str(self.model), "precision": "float32", "storage_options": dict(self.options)},
            "output": {"uri": f"s3://{self.bucket}/out-{uuid.uuid4().hex[:6]}", "storage_options": dict(self.options)},
            "cluster": {"address": "local", "replicas": 2, "cpus_per_replica": 1, "gpus_per_replica": 0},
            "run": {"shard_bytes": "4KiB"},
        }

    def configuration(self, sections: dict[str, Any] | str) -> Path:
        path = self.folder / "configs" / f"{uuid.uuid4().hex}.yaml"
        path.write_text(sections if isinstance(sections, str) else yaml.safe_dump(sections))
        return path

    def driver(self, sections: dict[str, Any] | str, *overrides: str) -> Driver:
        return Driver(self.configuration(sections), *overrides, env=self.environment)

    @property
    def fs(self) -> s3fs.S3FileSystem:
        return s3fs.S3FileSystem(**self.options)

    def receipts(self, output: str) -> list[str]:
        self.fs.invalidate_cache()
        return [path for path in self.fs.find(f"{output}/runs") if "/receipts/" in path and path.endswith(".json")]

    def hunt(self, *more: Secret) -> Hunt:
        return Hunt([self.key, *self.planted.values(), *more])

    def search_what_is_left(self, hunt: Hunt, ended: Ended, output: str | None) -> None:
        """Configurations are the user's own; everything else under the folder is the run's."""
        hunt.text(ended.stdout, "stdout")
        hunt.text(ended.log, "stderr")
        for name in ("tmp", "home"):
            hunt.tree(self.folder / name)
        hunt.tree(self.ray)
        if output is not None:
            hunt.store(self.fs, output.removeprefix("s3://"))


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server, minilm: Path) -> Iterator[Vault]:
    if s3_server.ceph is None:
        pytest.skip("s3: the endpoint came from outside; no user can be made there")
    uid = f"vault-{uuid.uuid4().hex[:8]}"  # suspended by a test, while other workers use the server
    folder, ray = tmp_path_factory.mktemp("vault"), Path(tempfile.mkdtemp(prefix="v-", dir="/tmp"))
    for name in ("tmp", "home", "configs"):
        (folder / name).mkdir()
    key, access = Secret.drawn("the S3 secret key"), uuid.uuid4().hex.upper()[:20]
    s3_server.ceph.admin(
        "user", "create", f"--uid={uid}", "--display-name=vault", f"--access-key={access}", f"--secret={key.value}"
    )
    options = {"key": access, "secret": key.value, "endpoint_url": s3_server.endpoint}
    made = Vault(folder, ray, uid, uid, options, key, minilm, s3_server)
    made.fs.mkdir(made.bucket)
    docstrings_corpus(folder / "corpus", 160)
    made.fs.put(f"{folder / 'corpus'}/", f"{made.bucket}/corpus", recursive=True)
    yield made
    s3_server.ceph.admin("user", "rm", f"--uid={uid}", "--purge-data")


def _gcs(family: list[psutil.Process]) -> tuple[str, dict[str, int]]:
    """The address of the cluster's records, and the pids of Ray's servers."""
    lines = {process.pid: " ".join(process.cmdline()) for process in family}
    addresses = [found[1] for line in lines.values() if (found := re.search(r"--gcs-address=(\S+)", line))]
    servers = {name: pid for pid, line in lines.items() for name in RAY_SERVERS if name in line.split(" ")[0]}
    return addresses[0], servers


@pytest.mark.xdist_group("secrets-replica")
def test_a_run_that_loses_a_replica_and_is_published(vault: Vault) -> None:
    sections = vault.sections()
    output = sections["output"]["uri"]
    with vault.driver(sections) as driver:
        hunt = vault.hunt()
        replicas = driver.freeze_as_they_come(2)
        os.kill(replicas[0], signal.SIGCONT)
        driver.until(lambda: vault.receipts(output))
        family = [psutil.Process(driver.pid), *driver.family()]
        assert len(hunt.processes(family)) > 3
        address, servers = _gcs(family)
        os.kill(replicas[0], signal.SIGKILL)
        assert hunt.ray_metadata(address) > 5_000
        assert set(servers) == set(RAY_SERVERS)
        for name, pid in servers.items():
            # they hold the shell's environment, and hand it on; what only the configuration holds they must not
            only = Hunt([vault.key])
            only.memory(pid, name)
            hunt.found += only.found
        os.kill(replicas[1], signal.SIGCONT)  # without its shard the run could not end before the search did
        ended = driver.end()
    assert ended.rc == 0, ended.log
    assert "replica 0 lost" in ended.log
    vault.search_what_is_left(hunt, ended, output)
    assert hunt.found == []
    assert hunt.looked_at > 100
    assert (ended.summary["published"], ended.summary["documents"]) == (True, 160)


@pytest.mark.xdist_group("secrets-key")
def test_a_key_that_is_suspended_midway(vault: Vault) -> None:
    """Replicas and driver are refused by the store, and say so."""
    sections = vault.sections()
    output = sections["output"]["uri"]
    assert vault.server.ceph is not None
    with vault.driver(sections) as driver:
        driver.until(lambda: vault.receipts(output))
        vault.server.ceph.admin("user", "suspend", f"--uid={vault.uid}")
        try:
            ended = driver.end()
        finally:
            vault.server.ceph.admin("user", "enable", f"--uid={vault.uid}")
    assert ended.rc == 4, ended.log
    assert "UserSuspended" in ended.log or "access denied" in ended.log
    hunt = vault.hunt()
    vault.search_what_is_left(hunt, ended, output)
    assert hunt.found == []


def _wrong_key(vault: Vault, sections: dict[str, Any]) -> None:
    sections["output"]["storage_options"] = vault.options | {"secret": vault.secret("a wrong key").value}


def _dead_endpoint(vault: Vault, sections: dict[str, Any]) -> None:
    password = vault.secret("endpoint password").in_url
    sections["corpus"]["storage_options"] = vault.options | {"endpoint_url": f"http://me:{password}@127.0.0.1:1"}


def _password_in_the_endpoint(vault: Vault, sections: dict[str, Any]) -> None:
    password = vault.secret("endpoint password").in_url
    there = vault.server.endpoint.replace("http://", f"http://me:{password}@")
    sections["corpus"]["storage_options"] = vault.options | {"endpoint_url": there}


def _key_in_the_uri(vault: Vault, sections: dict[str, Any]) -> None:
    sections["corpus"]["uri"] = f"s3://{vault.options['key']}:{vault.secret('key in a uri').value}@{vault.bucket}/corpus/"


def _key_in_the_output(vault: Vault, sections: dict[str, Any]) -> None:
    sections["output"]["uri"] = f"s3://me:{vault.secret('key in a uri').in_url}@{vault.bucket}/out"


def _key_in_the_model(vault: Vault, sections: dict[str, Any]) -> None:
    sections["model"]["name"] = f"https://me:{vault.secret('key in a uri').in_url}@127.0.0.1:1/model/"


def _signed_url(vault: Vault, sections: dict[str, Any]) -> None:
    sections["corpus"]["uri"] = f"https://127.0.0.1:1/a.jsonl?X-Amz-Signature={vault.secret('a signature').in_url}"


def _options_of_a_wrong_type(vault: Vault, sections: dict[str, Any]) -> None:
    sections["corpus"]["storage_options"] = f"secret={vault.key.value}"


def _options_that_nobody_takes(vault: Vault, sections: dict[str, Any]) -> None:
    sections["corpus"]["storage_options"] = vault.options | {"no_such_option": vault.secret("an option").value}


def _sections_in_a_list(vault: Vault, sections: dict[str, Any]) -> None:
    sections["output"] = [{"storage_options": dict(vault.options), "uri": "x"}]


def _a_section_that_is_text(vault: Vault, sections: dict[str, Any]) -> None:
    sections["output"] = f"s3://me:{vault.secret('key in a uri').in_url}@{vault.bucket}/out"


def _odd_client_options(vault: Vault, sections: dict[str, Any]) -> None:
    password = vault.secret("proxy in the options").in_url
    there = {"config_kwargs": {"proxies": {"http": f"http://me:{password}@127.0.0.1:1"}}}
    sections["corpus"]["storage_options"] = vault.options | there


REFUSED = {
    _wrong_key: "output.uri .*SignatureDoesNotMatch",
    _dead_endpoint: "corpus.uri: the endpoint does not answer",
    _password_in_the_endpoint: "corpus",
    _key_in_the_uri: "holds a password, key or signature",
    _key_in_the_output: "holds a password, key or signature",
    _key_in_the_model: "holds a password, key or signature",
    _signed_url: "holds a password, key or signature",
    _options_of_a_wrong_type: "corpus.storage_options: should be a valid dictionary",
    _options_that_nobody_takes: "corpus.uri .*storage_options",
    _sections_in_a_list: "output: should be a valid dictionary",
    _a_section_that_is_text: "output: should be a valid dictionary",
    _odd_client_options: "corpus.uri",
}


@pytest.mark.parametrize(("spoil", "words"), REFUSED.items(), ids=[spoil.__name__.strip("_") for spoil in REFUSED])
def test_a_request_that_cannot_be_carried_out(vault: Vault, spoil: Any, words: str) -> None:
    sections = vault.sections()
    output = sections["output"]["uri"]
    spoil(vault, sections)
    with vault.driver(sections) as driver:
        ended = driver.end()
    assert ended.rc == 2, ended.log
    assert re.match(rf"reembed: .*{words}.*\n$", ended.log), ended.log
    hunt = vault.hunt()
    vault.search_what_is_left(hunt, ended, output)
    assert hunt.found == []
    assert committed_nothing(vault, output)


@pytest.mark.parametrize(
    "text", ["corpus: {{uri: x, storage_options: {{secret: {0}\n", "secret: {0}\n- {0}: [\n", "{0}: &a {0}\nb: *{0}\n"]
)
def test_a_configuration_that_is_no_yaml(vault: Vault, text: str) -> None:
    broken = vault.secret("a line of broken YAML")
    with vault.driver(text.format(broken.value)) as driver:
        ended = driver.end()
    assert ended.rc == 2, ended.log
    hunt = vault.hunt()
    vault.search_what_is_left(hunt, ended, None)
    assert hunt.found == []


@pytest.mark.parametrize(
    "override", ["corpus.storage_options.secret={0}", "corpus.uri={0}", "{0}", "corpus.storage_options.x:{0}"]
)
def test_an_override_that_is_refused_is_not_repeated(vault: Vault, override: str) -> None:
    """On the command line a secret is seen by everybody, which docs/security.md says; it is not written down as well."""
    sections = vault.sections()
    sections["corpus"]["no_such_key"] = 1
    given = vault.secret("an override")
    with vault.driver(sections, f"corpus.storage_options{override.format(given.value)}") as driver:
        ended = driver.end()
    assert ended.rc == 2, ended.log
    hunt = vault.hunt()
    vault.search_what_is_left(hunt, ended, None)
    assert hunt.found == []


def committed_nothing(vault: Vault, output: str) -> bool:
    vault.fs.invalidate_cache()
    return not vault.fs.exists(output)


def test_the_search_finds_what_is_there(vault: Vault, tmp_path: Path) -> None:
    """In every form and every kind of place: else nothing found would mean nothing."""
    secret = Secret.drawn("planted")
    plain = secret.value
    written = {
        "plain.txt": f"a {plain} b".encode(),
        "url.txt": quote(plain, safe="").encode(),
        "base64.txt": base64.b64encode(f"Basic me:{plain}".encode()),
        "base64-1.txt": base64.b64encode(f"x{plain}yy".encode()),
        "base64-2.txt": base64.urlsafe_b64encode(f"xx{plain}z".encode()),
        "packed.log.gz": gzip.compress(plain.encode()),
    }
    for name, data in written.items():
        (tmp_path / name).write_bytes(data)
    pq.write_table(pa.table({"reason": [f"failed with {plain}"]}), tmp_path / "part.parquet", compression="zstd")
    (tmp_path / f"named-{plain.replace('/', '')}").touch()
    hunt = Hunt([secret])
    hunt.tree(tmp_path)
    for name in [*written, "part.parquet"]:
        assert any(name in where for where in hunt.found), (name, hunt.found)
    with psutil.Popen(["sleep", "60"], env={"X": plain}) as process:
        only_environment = Hunt([secret])
        only_environment.processes([process])
        assert only_environment.found == []
        process.kill()
    with psutil.Popen(["sh", "-c", "sleep 60; :", plain]) as process:
        hunt, until = Hunt([secret]), time.monotonic() + 10
        while not hunt.found and time.monotonic() < until:  # it may not have become `sh` yet
            hunt.processes([process])
        process.kill()
    assert len(hunt.found) == 1
    held = plain.encode()
    hunt = Hunt([secret])
    hunt.memory(os.getpid(), "this process")
    assert hunt.found, held
