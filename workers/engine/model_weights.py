"""Reads a transformer's weights: safetensors only, no remote code, and never a weight that was not in the checkpoint.

transformers fills missing weights with random numbers and goes on; here that is an error, the pooler apart (it is
unused unless pooling=pooler). Importing this file does not import torch; calling it does. Knows nothing of batches or
devices.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from workers.errors import UsageError


def load_transformer(folder: Path, name: str, *, dtype: str, with_pooler: bool) -> Any:
    """The transformer in evaluation mode, on the CPU. `dtype` is torch's name of it; `name` is shown in errors.

    Raises:
        UsageError: not a model that transformers has, weights missing or of another shape.
    """
    from transformers.utils import logging

    shown = f"model.name={name}"
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # its load report and progress bar are not for a job's log: what matters is an error below
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
