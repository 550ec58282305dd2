"""A model's weights, as transformers' own module or, for BERT-like models, as plain tensors.

    bert()          BERT-like models: read from safetensors, without importing transformers      (bert/weights.py)
    transformer()   any model, and the reference of the self-check: loaded once, float32, on the CPU

Only safetensors are read, and no remote code is run. A weight that the checkpoint lacks is an error: transformers would
fill it with random numbers; so is one that the encoder leaves unused, unless it is known to be harmless, and one with NaN.
Checkpoints that are unusual in any way are read by transformers.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from workers.engine.bert.facts import facts_of
from workers.engine.bert.weights import BertWeights, State, read_weights
from workers.engine.inputs import TokenTypes, read_token_types
from workers.errors import UsageError, one_line
from workers.model.architecture import ENCODER_HALVES, common_names, harmless, refuse_unused
from workers.model.files import checkpoint_files

_log = logging.getLogger(__name__)


class Checkpoint:
    """The transformer in `folder`; `name` is the model's name for messages. `beside`: weights that are read elsewhere."""

    def __init__(self, folder: Path, name: str, *, with_pooler: bool, beside: Collection[str] = ()) -> None:
        self._folder, self.name, self.with_pooler, self._beside = folder, name, with_pooler, frozenset(beside)
        self._model: Any = None
        self._bert: BertWeights | None = None
        self._bert_read = False

    @classmethod
    def of(cls, model: Any) -> Checkpoint:
        """The checkpoint of a module that is already loaded."""
        checkpoint = cls(Path(), type(model).__name__, with_pooler=False)
        checkpoint._model, checkpoint.token_types = model, None
        return checkpoint

    def transformer(self) -> Any:
        """transformers' module in evaluation mode. It is shared: modify a copy only. Raises: UsageError."""
        if self._model is None:
            self._model = load_transformer(
                self._folder, self.name, dtype="float32", with_pooler=self.with_pooler, beside=self._beside
            )
        return self._model

    def bert(self) -> BertWeights | None:
        """The weights of a BERT-like model; None for any other. Raises: UsageError."""
        if not self._bert_read:
            self._bert = self._read_files() if self._model is None else self._from_module()
            self._bert_read = True
        return self._bert

    @functools.cached_property
    def token_types(self) -> TokenTypes | None:
        """The token types that the model's tokenizer gives. Raises: UsageError."""
        return read_token_types(self._folder, self.name)

    @property
    def family(self) -> str:
        """A name of the architecture, for messages."""
        return type(self._model).__name__ if self._model is not None else "bert-like"

    @property
    def hidden(self) -> int:
        """Components of a hidden state."""
        bert = self.bert()
        return bert.hidden if bert else int(self._setting("hidden_size"))

    @property
    def layers(self) -> int | None:
        """Number of encoder layers; None if the configuration does not tell."""
        bert = self.bert()
        return len(bert.layers) if bert else self._setting("num_hidden_layers", optional=True)

    @property
    def vocabulary(self) -> int:
        """Number of token ids that the model knows."""
        bert = self.bert()
        return len(bert.embeddings.words) if bert else int(self.transformer().get_input_embeddings().weight.shape[0])

    def _setting(self, name: str, *, optional: bool = False) -> Any:
        config = self.transformer().config
        found = common_names(config.to_dict() | {"model_type": config.model_type}).get(name, getattr(config, name, None))
        if found is None and not optional:
            raise UsageError(f"model.name={self.name}: {self.family} does not tell its {name}; name a text encoder")
        return found

    def _read_files(self) -> BertWeights | None:
        """From the files, without transformers; if that fails, through transformers, which also reports what is wrong."""
        try:
            facts = facts_of(json.loads((self._folder / "config.json").read_text()))
            if facts is None:
                return self._from_module()
            state = _Recorded(_read(self._folder))
            weights = read_weights(state, facts)
            spoilt = next(_not_finite(state.read.items()), None)
            unused = [name for name in state if name not in state.read and not harmless(name) and name not in self._beside]
            if spoilt is None and not unused:
                return weights
            _log.info("%s: read by transformers (%s)", self.name, spoilt or unused[0])
            return self._from_module()
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            _log.info("%s: read by transformers (%s: %s)", self.name, type(error).__name__, error)
            return self._from_module()

    def _from_module(self) -> BertWeights | None:
        model = self.transformer()
        facts = facts_of(model.config.to_dict() | {"model_type": model.config.model_type})
        return read_weights(model.state_dict(), facts) if facts else None


class _Recorded(dict[str, Tensor]):
    """A checkpoint's tensors by name, and in `read` those that were taken."""

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self.read: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        self.read[name] = tensor = super().__getitem__(name)
        return tensor


def _not_finite(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[str]:
    """Names of the tensors that hold NaN or Inf. One pass over the weights: a sum is not finite if a summand is not."""
    for name, tensor in tensors:
        suspect = tensor.is_floating_point() and not torch.isfinite(tensor.sum(dtype=torch.float32))
        if suspect and not torch.isfinite(tensor).all():  # the sum itself may overflow
            yield name


def _read(folder: Path) -> State:
    try:
        names = checkpoint_files(folder)
    except UsageError as error:  # transformers is tried then, and reports what is wrong
        raise ValueError(str(error)) from error
    state: dict[str, Tensor] = {}
    for name in names:
        with safe_open(folder / name, framework="pt", device="cpu") as tensors:
            state |= {key: tensors.get_tensor(key) for key in tensors.keys()}  # noqa: SIM118 - it is not a mapping
    return state


def load_transformer(
    folder: Path, name: str, *, dtype: str, with_pooler: bool, masked_lm: bool = False, beside: Collection[str] = ()
) -> Any:
    """The transformer in evaluation mode, on the CPU. `dtype`: torch's name of it. `name`: for messages.

    `masked_lm`: with the head of that task. `beside`: weights that are read elsewhere.

    Raises:
        UsageError: transformers does not have the model, or weights are missing, unused, not finite or of another shape.
    """
    from transformers.utils import logging

    shown = f"model.name={name}"
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # its load report and progress bar do not belong in a job's log; errors are raised below
    logging.disable_progress_bar()
    try:
        model, report = _load(folder, dtype, masked_lm=masked_lm)
    except (OSError, ValueError, RuntimeError, KeyError, AttributeError, ImportError, TypeError) as error:
        reason = one_line(error)
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
    refuse_unused((key for key in report["unexpected_keys"] if key not in beside), shown)
    spoilt = list(_not_finite(model.named_parameters()))
    if spoilt:
        raise UsageError(
            f"{shown}: {len(spoilt)} weights hold NaN or Inf ({', '.join(spoilt[:3])}), so its vectors would too; "
            "fetch the model again, or name a checkpoint without them"
        )
    return model.eval()


def _load(folder: Path, dtype: str, *, masked_lm: bool) -> tuple[Any, Any]:
    import transformers

    kind = json.loads((folder / "config.json").read_text()).get("model_type")
    model = getattr(transformers, "AutoModelForMaskedLM" if masked_lm else ENCODER_HALVES.get(kind, "AutoModel"))
    settings: dict[str, Any] = {
        "use_safetensors": True,
        "trust_remote_code": False,
        "local_files_only": True,
        "dtype": dtype,
    }
    settings["output_loading_info"] = True
    try:
        return model.from_pretrained(str(folder), attn_implementation="sdpa", **settings)  # type: ignore[no-any-return]
    except (ValueError, ImportError) as error:
        if "scaled_dot_product_attention" not in str(error) and "sdpa" not in str(error):
            raise
        return model.from_pretrained(str(folder), attn_implementation="eager", **settings)  # type: ignore[no-any-return]
