"""Where a model is found, what is refused, and digests that depend on its files alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import filelock
import pytest

from tests.workers.models import copy_model, edit_json, layout, write_modules
from workers.config import ModelConfig
from workers.errors import TransientError, UsageError
from workers.model import fetch as fetch_module
from workers.model.files import ModelFiles, resolve_model

COMMIT, OLD_COMMIT = "1" * 40, "2" * 40


def resolve(name: Path | str, **settings: Any) -> ModelFiles:
    return resolve_model(ModelConfig(name=str(name), **settings))


@pytest.fixture
def model(minilm: Path, tmp_path: Path) -> Path:
    return copy_model(minilm, tmp_path / "model")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REEMBED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def hub(minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache as huggingface_hub lays it out: blobs, refs, snapshots of links; two commits of one model."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert constants.HF_HUB_OFFLINE, "conftest keeps the tests off the network"
    repository = tmp_path / "hub/models--acme--mini"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(COMMIT)
    (repository / "refs/v1").write_text(OLD_COMMIT)
    for commit in (COMMIT, OLD_COMMIT):
        for path in sorted(minilm.rglob("*")):
            if path.suffix in (".json", ".txt", ".safetensors"):
                blob = repository / "blobs" / f"{commit[0]}{abs(hash(path.name + str(path.parent.name))):x}"
                blob.parent.mkdir(exist_ok=True)
                content = path.read_bytes()
                if path.name == "sentence_bert_config.json" and commit == OLD_COMMIT:
                    content = json.dumps({"max_seq_length": 99}).encode()
                blob.write_bytes(content) if path.suffix != ".safetensors" else blob.symlink_to(path)
                link = repository / "snapshots" / commit / path.relative_to(minilm)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(blob)
    return repository


def test_local_folder(minilm: Path, model: Path) -> None:
    files = resolve(model)
    assert (files.folder, files.name, files.revision) == (model, str(model), None)
    again = resolve(minilm)
    assert (files.weights_digest, files.tokenizer_digest) == (again.weights_digest, again.tokenizer_digest)
    assert len(files.weights_digest) == 64


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("config.json", "weights"),
        ("1_Pooling/config.json", "weights"),
        ("modules.json", "weights"),
        ("sentence_bert_config.json", "weights"),
        ("vocab.txt", "tokenizer"),
        ("tokenizer_config.json", "tokenizer"),
        ("README.md", "nothing"),
    ],
)
def test_digests_see_what_matters(model: Path, name: str, changes: str) -> None:
    before = resolve(model)
    with (model / name).open("a") as stream:
        stream.write("\n")
    after = resolve(model)
    assert (before.weights_digest != after.weights_digest) == (changes == "weights")
    assert (before.tokenizer_digest != after.tokenizer_digest) == (changes == "tokenizer")


def test_digest_sees_the_weights(model: Path) -> None:
    before = resolve(model)
    data = bytearray((model / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (model / "model.safetensors").unlink()
    (model / "model.safetensors").write_bytes(data)
    assert resolve(model).weights_digest != before.weights_digest


def test_hub_name(hub: Path, minilm: Path) -> None:
    files = resolve("acme/mini")
    assert files.folder == hub / "snapshots" / COMMIT
    assert (files.name, files.revision) == ("acme/mini", COMMIT)
    assert files.weights_digest == resolve(minilm).weights_digest


@pytest.mark.parametrize("revision", ["v1", OLD_COMMIT])
def test_hub_revision(hub: Path, revision: str) -> None:
    files, recipe = layout("acme/mini", revision=revision)
    assert files.revision == OLD_COMMIT
    assert recipe.max_tokens == 99


@pytest.mark.slow
def test_hub_model_encodes(hub: Path) -> None:
    from tests.workers.models import build

    tokenizer, encoder = build("acme/mini")
    assert encoder.encode(tokenizer.tokenize(["snow"])).vectors.shape == (1, 384)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("acme/unknown", {}, r"acme/unknown: not in the hub cache.*offline.*local folder"),
        ("acme/mini", {"revision": "v9"}, r"acme/mini model.revision=v9: not in the hub cache"),
        ("bad name!", {}, r"bad name!: neither a folder here nor a valid hub name"),
        ("./missing/folder", {}, r"./missing/folder: no such folder"),
        ("/nowhere/at/all", {}, r"/nowhere/at/all: no such folder"),
        ("a/b/c", {}, r"a/b/c: no such folder"),
    ],
)
def test_a_model_that_is_not_there(hub: Path, name: str, settings: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        resolve(name, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("hub")
def test_what_the_hub_answers_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub import errors

    cases = {
        "neither a folder here nor a model on the hub": errors.RepositoryNotFoundError,
        "no such revision": errors.RevisionNotFoundError,
        "is gated": errors.GatedRepoError,
        "could not deliver": errors.HfHubHTTPError,
    }
    for message, kind in cases.items():
        error = kind.__new__(
            kind, "503\nService\nUnavailable"
        )  # its constructor wants a response of the HTTP client of the day

        def refuse(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
        with pytest.raises(UsageError, match=message) as caught:
            resolve("acme/other")
        assert "\n" not in str(caught.value)


def test_hub_download_never_asks_for_pickles_or_code() -> None:
    from huggingface_hub.utils import filter_repo_objects

    wanted = ["config.json", "model.safetensors", "1_Pooling/config.json", "vocab.txt", "spiece.model", "tokenizer.json"]
    others = ["pytorch_model.bin", "modeling_custom.py", "model.pt", "rust_model.ot", "tf_model.h5", "model.onnx", "x.pkl"]
    assert list(filter_repo_objects([*wanted, *others], allow_patterns=list(fetch_module.WANTED))) == wanted


def test_revision_of_a_folder(model: Path) -> None:
    with pytest.raises(UsageError, match=r"model.revision=v1: only hub models have revisions"):
        resolve(model, revision="v1")


def test_pickle_only(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(UsageError, match=r"no model.safetensors.*pytorch_model.bin.*never loaded.*save_pretrained"):
        resolve(model)


def test_missing_weight_shard(model: Path) -> None:
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UsageError, match=r"not there \(model-00002-of-00002.safetensors\)"):
        resolve(model)


def test_remote_code_is_refused_unless_transformers_has_the_model(model: Path) -> None:
    edit_json(model / "config.json", auto_map={"AutoModel": "modeling_custom.CustomModel"})
    resolve(model)  # model_type bert: the custom class is only an alternative, and never taken
    edit_json(model / "config.json", model_type="custom_bert")
    with pytest.raises(UsageError, match=r"needs remote code \(auto_map.*never run"):
        resolve(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json: not readable as JSON"),
        (lambda folder: (folder / "config.json").write_text("[1]"), "must hold a JSON dict"),
        (lambda folder: [(folder / name).unlink() for name in ("tokenizer.json", "vocab.txt")], "no tokenizer files"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "PEFT adapter; merge it"),
        (lambda folder: edit_json(folder / "config.json", is_encoder_decoder=True), "only encoders are supported"),
        (lambda folder: write_modules(folder, ("custom.Module", "")), "custom code, which is never run"),
        (lambda folder: write_modules(folder, ("sentence_transformers.models.BoW", "")), "first module is BoW"),
        (
            lambda folder: write_modules(folder, ("sentence_transformers.models.Transformer", "../../etc")),
            "leaves the model's folder",
        ),
    ],
)
def test_folders_that_are_refused(model: Path, change: Any, message: str) -> None:
    change(model)
    with pytest.raises(UsageError, match=message) as caught:
        resolve(model)
    assert "\n" not in str(caught.value)


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="no such folder"):
        resolve(tmp_path / "file")


def test_old_layout_with_the_transformer_in_a_folder(minilm: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    copy_model(minilm, folder / "0_Transformer")
    shutil.move(folder / "0_Transformer/1_Pooling", folder / "1_Pooling")
    write_modules(
        folder,
        ("sentence_transformers.models.Transformer", "0_Transformer"),
        ("sentence_transformers.models.Pooling", "1_Pooling"),
    )
    files, recipe = layout(folder)
    assert recipe.transformer == "0_Transformer"
    assert recipe.max_tokens == 256
    assert files.tokenizer_digest != files.weights_digest


def test_object_store(minilm: Path, tmp_path: Path, cache: Path) -> None:
    """Fetched once; the second time only listed."""
    source = shutil.copytree(minilm, tmp_path / "store")
    (source / "pytorch_model.bin").write_bytes(b"never fetched")
    files = resolve(f"file://{source}")
    assert cache in files.folder.parents
    assert files.weights_digest == resolve(minilm).weights_digest
    assert files.tokenizer_digest == resolve(minilm).tokenizer_digest
    assert not (files.folder / "pytorch_model.bin").exists()
    before = (files.folder / "model.safetensors").stat().st_mtime_ns
    assert resolve(f"file://{source}/").folder == files.folder
    assert (files.folder / "model.safetensors").stat().st_mtime_ns == before
    assert [path.name for path in (cache / "models").iterdir() if path.is_dir()] == [files.folder.name]


def test_a_changed_store_is_another_model(minilm: Path, tmp_path: Path, cache: Path) -> None:
    source = shutil.copytree(minilm, tmp_path / "store")
    first = resolve(f"file://{source}")
    edit_json(source / "config.json", note="second version")
    second = resolve(f"file://{source}")
    assert first.folder != second.folder
    assert first.weights_digest != second.weights_digest


def test_a_damaged_copy_is_fetched_again(minilm: Path, tmp_path: Path, cache: Path) -> None:
    source = shutil.copytree(minilm, tmp_path / "store")
    files = resolve(f"file://{source}")
    (files.folder / "model.safetensors").write_bytes(b"cut off")
    assert resolve(f"file://{source}").weights_digest == files.weights_digest


@pytest.mark.parametrize("moment", ["before it is copied", "after it was copied"])
def test_a_model_that_changes_while_it_is_fetched(
    minilm: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    source = shutil.copytree(minilm, tmp_path / "store")
    listings = []

    def list_and_change(*arguments: Any) -> Any:
        if listings and moment == "after it was copied":
            edit_json(source / "config.json", note="changed")
        listings.append(real(*arguments))
        if len(listings) == 1 and moment == "before it is copied":
            edit_json(source / "config.json", note="changed")
        return listings[-1]

    real = fetch_module.list_objects
    monkeypatch.setattr(fetch_module, "list_objects", list_and_change)
    with pytest.raises(TransientError, match="changed while it was fetched"):
        resolve(f"file://{source}")
    assert not [path for path in (cache / "models").iterdir() if path.is_dir()]


KILLED = """
import os, sys
from workers.model import fetch as fetch_module
from workers.config import ModelConfig
from workers.model.files import resolve_model
real, opened = fetch_module.open_object, []
def open_then_die(uri, *rest):
    opened.append(uri)
    if len(opened) == 4:
        os._exit(9)
    return real(uri, *rest)
fetch_module.open_object = open_then_die
resolve_model(ModelConfig(name=sys.argv[1]))
"""


@pytest.mark.slow
def test_a_killed_download_never_looks_complete(minilm: Path, tmp_path: Path, cache: Path) -> None:
    source = shutil.copytree(minilm, tmp_path / "store")
    done = subprocess.run([sys.executable, "-c", KILLED, f"file://{source}"], check=False)
    assert done.returncode == 9
    left = [path for path in (cache / "models").iterdir() if path.is_dir()]
    assert [path.suffix for path in left] == [".part"]
    files = resolve(f"file://{source}")
    assert files.weights_digest == resolve(minilm).weights_digest
    assert [path for path in (cache / "models").iterdir() if path.is_dir()] == [files.folder], (
        "the torn copy was left behind"
    )


def test_processes_of_a_node_wait_for_one_download(minilm: Path, tmp_path: Path, cache: Path) -> None:
    source = shutil.copytree(minilm, tmp_path / "store")
    files = resolve(f"file://{source}")
    shutil.rmtree(files.folder)
    with filelock.FileLock(f"{files.folder}.lock"):
        found: list[ModelFiles] = []
        waiting = threading.Thread(target=lambda: found.append(resolve(f"file://{source}")))
        waiting.start()
        waiting.join(0.5)
        assert not found
        copy_model(minilm, files.folder)  # what the holder of the lock does
        (files.folder / "model.safetensors").unlink()
        shutil.copy(minilm / "model.safetensors", files.folder)
        marker = (files.folder / "config.json").stat().st_ino
    waiting.join(30)
    assert found[0].folder == files.folder
    assert (files.folder / "config.json").stat().st_ino == marker, "downloaded again"


@pytest.mark.parametrize("name", ["file:///nowhere/model", "memory://nothing/here"])
def test_nothing_at_the_uri(cache: Path, name: str) -> None:
    with pytest.raises(UsageError, match="no objects there"):
        resolve(name)


def test_model_on_s3(minilm: Path, s3_bucket: str, cache: Path) -> None:
    import s3fs

    s3fs.S3FileSystem().put(f"{minilm}/", f"{s3_bucket}/models/mini/", recursive=True)
    s3fs.S3FileSystem().pipe(f"{s3_bucket}/models/mini-other/config.json", b"{}")  # a neighbour with the same beginning
    files = resolve(f"s3://{s3_bucket}/models/mini")
    assert files.name == f"s3://{s3_bucket}/models/mini"
    assert (files.weights_digest, files.tokenizer_digest) == (
        resolve(minilm).weights_digest,
        resolve(minilm).tokenizer_digest,
    )
    assert (files.folder / "1_Pooling/config.json").is_file()
    with pytest.raises(UsageError, match="the bucket does not exist"):
        resolve("s3://reembed-no-such-bucket/model")


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"REEMBED_CACHE": "/c", "XDG_CACHE_HOME": "/x"}, "/c"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/reembed"),
        ({"HOME": "/home/me"}, "/home/me/.cache/reembed"),
        ({"REEMBED_CACHE": "~/c", "HOME": "/home/me"}, "/home/me/c"),
        ({"REEMBED_CACHE": "c"}, None),
        ({"HOME": ":"}, None),
    ],
)
def test_the_cache_is_in_an_absolute_folder(
    env: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REEMBED_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    if expected is None:
        with pytest.raises(UsageError, match=r"REEMBED_CACHE: .* relative folder .*; set REEMBED_CACHE to an absolute path"):
            fetch_module.cache_folder()
    else:
        assert fetch_module.cache_folder() == Path(expected)
