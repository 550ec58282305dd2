"""Every shipped configuration is a test case: it parses, names what exists, and holds neither secrets nor this machine."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from jobs.config import load_config
from workers.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = sorted((ROOT / "configs").glob("*.yaml"))


def test_the_promised_ones_are_there() -> None:
    assert {"quickstart.yaml", "cpu.yaml", "h200.yaml", "nightly-s3.yaml"} <= {path.name for path in SHIPPED}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_parses(path: Path) -> None:
    config = load_config(path)
    assert config.corpus.uri
    sources = {part.partition("=")[0] for uri in config.corpus.uri for part in uri.split("/") if "=" in part}
    assert set(config.output.partition_by) <= set(config.corpus.keep) | sources  # as the command itself will ask for


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_an_unknown_key_in_it_is_refused(path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown key model\.poolin; did you mean pooling\?"):
        load_config(path, ["model.poolin=cls"])


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_holds_no_secret(path: Path) -> None:
    assert not re.search(r"(?i)(secret\w*|password|\btoken|access_?key)\s*:\s*\S", re.sub(r"(?m)#.*$", "", path.read_text()))


def test_quickstart_needs_nothing_but_the_clone() -> None:
    config = load_config(ROOT / "configs" / "quickstart.yaml")
    rows = [json.loads(line) for uri in config.corpus.uri for line in (ROOT / uri).read_text().splitlines()]
    assert len({row[config.corpus.id or ""] for row in rows}) == len(rows) >= 200
    assert all(row[column].strip() for row in rows for column in (*config.corpus.text, *config.corpus.keep))
    package, _, folder = config.model.name.removeprefix("package:").partition("/")
    module = __import__(package)
    assert (Path(module.__file__ or "").parent / folder / "model.safetensors").is_file()


@pytest.mark.parametrize("override", ["run.reuse=off", "run.reuse='off'"])
def test_off_is_a_word(override: str) -> None:
    """To YAML it is a boolean."""
    assert load_config(ROOT / "configs" / "quickstart.yaml", [override]).run.reuse == "off"
