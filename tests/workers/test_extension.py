"""The loader of what is written in C."""

from __future__ import annotations

import sysconfig
import tomllib

import pytest

from tests.sessions import ROOT
from workers.extension import load

NAMES = [
    module["name"] for module in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["ext-modules"]
]


@pytest.mark.parametrize("name", NAMES)
def test_an_extension_is_loaded_or_said_to_be_missing(name: str) -> None:
    built = ROOT / (name.replace(".", "/") + sysconfig.get_config_var("EXT_SUFFIX"))
    if not built.exists():
        with pytest.raises(OSError, match="not built; install with a C compiler at hand"):
            load(name)
        return
    assert load(name)._name == str(built)


def test_one_that_is_not_there() -> None:
    with pytest.raises(OSError, match="not built; install with a C compiler at hand"):
        load("workers.records._not_there")
