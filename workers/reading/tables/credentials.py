"""corpus.storage_options, which are fsspec's, in the words of the libraries that read a table's own records.

    object_store_options   of deltalake and pylance (Rust's object_store)
    file_io_properties     of pyiceberg

Only S3 has settings that differ by client; what a library asks for beyond that stands in corpus.table_options, which counts
before all of it. Without storage_options each library finds credentials in the environment, as fsspec does.
"""

from __future__ import annotations

import os
from typing import Any

from workers.config import CorpusConfig

_OBJECT_STORE = {
    "key": "AWS_ACCESS_KEY_ID",
    "secret": "AWS_SECRET_ACCESS_KEY",
    "token": "AWS_SESSION_TOKEN",
    "endpoint_url": "AWS_ENDPOINT_URL",
    "region_name": "AWS_REGION",
}
_FILE_IO = {
    "key": "s3.access-key-id",
    "secret": "s3.secret-access-key",
    "token": "s3.session-token",
    "endpoint_url": "s3.endpoint",
    "region_name": "s3.region",
}


def object_store_options(config: CorpusConfig) -> dict[str, str]:
    """For deltalake.DeltaTable and lance.dataset."""
    options = {_OBJECT_STORE[name]: value for name, value in _s3(config).items()}
    endpoint = options.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT_URL", "")
    if endpoint.startswith("http://"):
        options["AWS_ALLOW_HTTP"] = "true"
    return options | {name: str(value) for name, value in config.table_options.items()}


def file_io_properties(config: CorpusConfig) -> dict[str, Any]:
    """For pyiceberg's catalogues and tables."""
    found = {_FILE_IO[name]: value for name, value in _s3(config).items()}
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    if endpoint and "s3.endpoint" not in found:
        found["s3.endpoint"] = endpoint
    return found | dict(config.table_options)


def _s3(config: CorpusConfig) -> dict[str, str]:
    options = config.storage_options
    flat = {**options, **dict(options.get("client_kwargs", {}))}
    return {name: str(flat[name]) for name in _OBJECT_STORE if flat.get(name)}
