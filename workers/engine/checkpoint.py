"""A model's weights, as transformers' own module or, for BERT-like models, as plain tensors.

    bert()          BERT-like models: read from safetensors, without importing transformers      (bert/weights.py)
    transformer()   any model, and the reference of the self-check: loaded once, float32, on the CPU

Only safetensors are read, no remote code is run, and a weight that the checkpoint lacks is an error: transformers would fill
it with random numbers. Checkpoints that are unusual in any way are read by transformers.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from workers.engine.bert.weights import BertWeights, State, facts_of, read_weights
from workers.errors import UsageError

_log = logging.getLogger(__name__)
_ONE_FILE, _INDEX = "model.safetensors", "model.safetensors.index.json"


class Checkpoint:
    """The transformer in `folder`; `name` is the model's name for messages."""

    def __init__(self, folder: Path, name: str, *, with_pooler: bool) -> None:
        self._folder, self._name, self.with_pooler = folder, name, with_pooler
        self._model: Any = None
        self._bert: BertWeights | None = None
        self._bert_read = False

    @classmethod
    def of(cls, model: Any) -> Checkpoint:
        """The checkpoint of a module that is already loaded."""
        checkpoint = cls(Path(), type(model).__name__, with_pooler=False)
        checkpoint._model = model
        return checkpoint

    def transformer(self) -> Any:
        """transformers' module in evaluation mode. It is shared: modify a copy only. Raises: UsageError."""
        if self._model is None:
            self._model = load_transformer(self._folder, self._name, dtype="float32", with_pooler=self.with_pooler)
        return self._model

    def bert(self) -> BertWeights | None:
        """The weights of a BERT-like model; None for any other. Raises: UsageError."""
        if not self._bert_read:
            self._bert = self._read_files() if self._model is None else self._from_module()
            self._bert_read = True
        return self._bert

    @property
    def family(self) -> str:
        """A name of the architecture, for messages."""
        return type(self._model).__name__ if self._model is not None else "bert-like"

    @property
    def hidden(self) -> int:
        """Components of a hidden state."""
        bert = self.bert()
        return bert.hidden if bert else int(self.transformer().config.hidden_size)

    @property
    def layers(self) -> int | None:
        """Number of encoder layers; None if the configuration does not tell."""
        bert = self.bert()
        return len(bert.layers) if bert else getattr(self.transformer().config, "num_hidden_layers", None)

    @property
    def vocabulary(self) -> int:
        """Number of token ids that the model knows."""
        bert = self.bert()
        return len(bert.embeddings.words) if bert else int(self.transformer().get_input_embeddings().num_embeddings)

    def _read_files(self) -> BertWeights | None:
        """From the files, without transformers; if that fails, through transformers, which also reports what is wrong."""
        try:
            facts = facts_of(json.loads((self._folder / "config.json").read_text()))
            return read_weights(_read(self._folder), facts) if facts else self._from_module()
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            _log.info("%s: read by transformers (%s: %s)", self._name, type(error).__name__, error)
            return self._from_module()

    def _from_module(self) -> BertWeights | None:
        model = self.transformer()
        facts = facts_of(model.config.to_dict() | {"model_type": model.config.model_type})
        return read_weights(model.state_dict(), facts) if facts else None


def _read(folder: Path) -> State:
    names = [_ONE_FILE]
    if (folder / _INDEX).is_file():
        names = sorted(set(json.loads((folder / _INDEX).read_text())["weight_map"].values()))
    state: dict[str, Tensor] = {}
    for name in names:
        with safe_open(folder / name, framework="pt", device="cpu") as tensors:
            state |= {key: tensors.get_tensor(key) for key in tensors.keys()}  # noqa: SIM118 - it is not a mapping
    return state


def load_transformer(folder: Path, name: str, *, dtype: str, with_pooler: bool) -> Any:
    """The transformer in evaluation mode, on the CPU. `dtype`: torch's name of it. `name`: for messages.

    Raises:
        UsageError: transformers does not have the model, or weights are missing or have another shape.
    """
    from transformers.utils import logging

    shown = f"model.name={name}"
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # its load report and progress bar do not belong in a job's log; errors are raised below
    logging.disable_progress_bar()
    try:
        model, report = _load(folder, dtype)
    except (OSError, ValueError, RuntimeError, KeyError, AttributeError, ImportError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UsageError(f"{shown}: transformers cannot load it ({type(error).__name__}: {reason})") from error
    except SafetensorError as error:
        raise UsageError(f"{shown}: its safetensors file is damaged ({error}); fetch the model again") from None
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    missing = sorted(key for key in report["missing_keys"] if with_pooler or "pooler" not in key.split("."))
    if missing:
        raise UsageError(
            f"{shown}: the checkpoint lacks {len(missing)} weights of the model ({', '.join(missing[:3])}), "
            "which would be random; name a complete checkpoint"
        )
    return model.eval()


def _load(folder: Path, dtype: str) -> tuple[Any, Any]:
    from transformers import AutoModel

    settings: dict[str, Any] = {
        "use_safetensors": True,
        "trust_remote_code": False,
        "local_files_only": True,
        "dtype": dtype,
    }
    settings["output_loading_info"] = True
    try:
        return AutoModel.from_pretrained(str(folder), attn_implementation="sdpa", **settings)  # type: ignore[no-any-return]
    except (ValueError, ImportError) as error:
        if "scaled_dot_product_attention" not in str(error) and "sdpa" not in str(error):
            raise
        return AutoModel.from_pretrained(str(folder), attn_implementation="eager", **settings)  # type: ignore[no-any-return]
