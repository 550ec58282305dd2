"""Hugging Face data sets: a folder made by save_to_disk, or a data set's repository on the hub at one commit.

    folder    the Arrow files that its state.json names; of several splits (dataset_dict.json) all of them, `split` a column.
              Files beside those (caches of `map` and `filter`, for one) are no part of the data set
    hf://     the revision becomes a commit, and every file is read of that; data files are told by their names

No library is needed but huggingface_hub, which is there for models.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from jobs.corpus.listing import is_description
from jobs.corpus.tables.snapshot import DataFile, TableSnapshot, refused
from workers.config import CorpusConfig, SourceFormat, TableFormat
from workers.errors import TransientError, UsageError
from workers.reading.formats.registry import format_of
from workers.storage.client import filesystem, patiently
from workers.storage.objects import list_objects
from workers.storage.uris import redact, scheme_of
from workers.table.partitions import Partitions, hive_partitions

SPLIT = "split"
_STATE, _SPLITS = "state.json", "dataset_dict.json"
_INDICES = ("_indices_files", "_indices_data_files")  # of early versions: rows in another order, or left out
_HUB = "hf"


def open_hf(config: CorpusConfig) -> TableSnapshot:
    """Raises: UsageError: no such data set, or one that cannot be read exactly. TransientError."""
    commit = None
    uri = config.uri[0].rstrip("/")
    if scheme_of(uri) == _HUB:
        uri, commit = _at_commit(uri, config)
    elif config.table_version is not None:
        raise UsageError("corpus.table_version: a data set on disk has no versions; leave it out")
    splits = _json(f"{uri}/{_SPLITS}", config)
    if splits is not None:
        folders: dict[str, Partitions] = {f"{uri}/{name}": ((SPLIT, str(name)),) for name in splits.get("splits", [])}
    else:
        folders = {uri: ()}
    files: list[DataFile] = []
    fingerprints = []
    for folder, partitions in folders.items():
        state = _json(f"{folder}/{_STATE}", config)
        if state is None and commit is not None and splits is None:
            return TableSnapshot(TableFormat.HF, config.uri[0], commit, list(_data_files(uri, config)), uri)
        files += _saved_files(folder, state, partitions)
        fingerprints.append(str((state or {}).get("_fingerprint")))
    return TableSnapshot(TableFormat.HF, config.uri[0], commit or "+".join(fingerprints), files, uri)


def _at_commit(uri: str, config: CorpusConfig) -> tuple[str, str]:
    """The URI with the commit that its revision is now, and the commit."""
    from huggingface_hub import HfApi

    fs, path = filesystem(uri, config.storage_options)
    revision = None if config.table_version is None else str(config.table_version)

    def resolve() -> tuple[Any, str | None]:
        fs.invalidate_cache()
        place = fs.resolve_path(path, revision=revision)
        if getattr(place, "repo_type", None) != "dataset":
            raise ValueError("is no repository of a data set: hf://datasets/OWNER/NAME")
        api = HfApi(endpoint=fs.endpoint, token=fs.token)
        return place, api.repo_info(place.repo_id, revision=place.revision, repo_type=place.repo_type).sha

    try:
        place, commit = patiently(resolve, uri)
    except TransientError:
        raise
    except Exception as error:  # noqa: BLE001 - of the hub's client: no such repository, revision or access
        raise refused(config, error) from None
    if commit is None:
        raise UsageError(f"corpus.uri {redact(uri)}: the hub does not tell the commit of revision {place.revision}")
    return f"hf://datasets/{place.repo_id}@{commit}/{place.path_in_repo}".rstrip("/"), commit


def _data_files(uri: str, config: CorpusConfig) -> Iterator[DataFile]:
    """Of a repository: those whose names tell a format, which must be one."""
    found: dict[SourceFormat, list[str]] = {}
    for info in list_objects(uri, config.storage_options):
        if is_description(info.uri):
            continue
        try:
            found.setdefault(format_of(info.uri, SourceFormat.AUTO)[0], []).append(info.uri)
        except UsageError:  # a README, a picture
            continue
    if len(found) > 1:
        raise UsageError(
            f"corpus.uri {redact(config.uri[0])}: holds files in several formats ({', '.join(sorted(found))}), perhaps "
            "of the same rows; name a folder of it that has one"
        )
    for name in [name for names in found.values() for name in names]:
        yield DataFile(name, hive_partitions(redact(name).partition("://")[2].split("/")[1:-1]))


def _saved_files(folder: str, state: dict[str, Any] | None, partitions: Partitions) -> Iterator[DataFile]:
    if state is None:
        raise UsageError(
            f"corpus.uri {redact(folder)}: has no {_STATE}, so it is no data set of save_to_disk; "
            "name the folder that save_to_disk made, or leave corpus.table out for files as they are"
        )
    if any(state.get(name) for name in _INDICES):
        raise UsageError(
            f"corpus.uri {redact(folder)}: its rows are chosen by an index file; save it again (flatten_indices)"
        )
    for entry in state.get("_data_files", []):
        name = str(entry.get("filename"))
        if "/" in name or name in ("", ".", "..", "None"):
            raise UsageError(
                f"corpus.uri {redact(folder)}: its {_STATE} names {name[:60]!r}, which is no file of its folder"
            )
        yield DataFile(f"{folder}/{name}", partitions)


def _json(uri: str, config: CorpusConfig) -> dict[str, Any] | None:
    """None: there is no such file. Raises: UsageError, TransientError."""
    fs, path = filesystem(uri, config.storage_options)
    try:
        found = json.loads(patiently(lambda: fs.cat_file(path), uri))
    except FileNotFoundError:
        return None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UsageError(f"corpus.uri {redact(uri)}: is not JSON as save_to_disk writes it; save the data set again")
    return found
