"""A model's folder full of traps, pickles and code wherever some library would look: it is loaded, and none goes off."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.workers.models import build, copy_model, edit_json
from workers.errors import UsageError

PICKLES = [
    "pytorch_model.bin", "training_args.bin", "optimizer.pt", "model.pt", "model.ckpt", "rng_state.pth", "scheduler.pt",
    "1_Pooling/pytorch_model.bin", "tokenizer.pkl", "model.pkl", "model.joblib", "flax_model.msgpack", "tf_model.h5",
]  # fmt: skip
CODE = [
    "modeling_mine.py", "configuration_mine.py", "tokenization_mine.py", "custom_st.py", "__init__.py", "setup.py",
    "conftest.py", "sitecustomize.py", "torch.py", "transformers.py",
]  # fmt: skip


class _Mischief:
    """What a pickle may do when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def sprung(tmp_path: Path) -> Path:
    """Is there once a trap has gone off."""
    return tmp_path / "SPRUNG"


@pytest.fixture
def trapped(minilm: Path, tmp_path: Path, sprung: Path) -> Path:
    folder = copy_model(minilm, tmp_path / "model")
    for name in PICKLES:
        (folder / name).write_bytes(pickle.dumps(_Mischief(sprung)))
    for name in CODE:
        (folder / name).write_text(f"import os\nos.mkdir({str(sprung)!r})\n")
    own = {
        "AutoConfig": "configuration_mine.Mine",
        "AutoModel": "modeling_mine.Mine",
        "AutoTokenizer": [None, "tokenization_mine.Mine"],
    }
    edit_json(folder / "config.json", auto_map=own, trust_remote_code=True, torch_dtype="float32")
    edit_json(folder / "tokenizer_config.json", auto_map=own, trust_remote_code=True)
    return folder


@pytest.mark.slow
def test_none_goes_off(trapped: Path, minilm: Path, sprung: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trapped)
    vectors = []
    for folder in (trapped, minilm):
        tokenizer, encoder = build(folder)
        vectors.append(encoder.encode(tokenizer.tokenize(["a text", "another one"])).vectors)
    assert not sprung.exists()
    np.testing.assert_array_equal(*vectors)


def test_the_traps_are_real(trapped: Path, sprung: Path) -> None:
    pickle.loads((trapped / "pytorch_model.bin").read_bytes())
    assert sprung.exists()


def test_weights_that_only_a_pickle_holds_are_refused(trapped: Path, sprung: Path) -> None:
    (trapped / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"pytorch_model\.bin.*never loaded"):
        build(trapped)
    assert not sprung.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pkl"])
def test_a_pickle_under_the_name_of_safetensors_is_no_model(trapped: Path, sprung: Path, name: str) -> None:
    (trapped / "model.safetensors").unlink()
    (trapped / "model.safetensors").write_bytes((trapped / name).read_bytes())
    with pytest.raises(Exception, match=r"(?i)safetensors|header|deserializ") as caught:
        build(trapped)
    assert not isinstance(caught.value, AssertionError)
    assert not sprung.exists()
