"""What a model is given beside token ids: the token types that its tokenizer gives, or none.

A model's forward pass may take token types that its tokenizer does not give: GPT-2 and its relatives look them up in the
table of words, so that zeros would add the vector of word 0 to every token. Whether the tokenizer gives them, and which
(XLNet and Funnel have a type of their own for <cls>), is asked of transformers' own tokenizer.

Shapes: T tokens of a batch, B sequences.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from workers.engine.kernels.packing import PackedBatch
from workers.errors import UsageError, one_line


@dataclass(frozen=True, slots=True)
class TokenTypes:
    """The types of a text's tokens: of the special tokens before it, of its own, of the special tokens after it."""

    prefix: tuple[int, ...] = ()
    content: int = 0
    suffix: tuple[int, ...] = ()

    def of(self, batch: PackedBatch) -> Tensor:
        """[T] int64, on the batch's device. Every sequence has all special tokens."""
        types_T = torch.full_like(batch.ids_T, self.content)
        borders = batch.cumulative_B1.to(torch.int64)
        for place, kind in enumerate(self.prefix):
            if kind != self.content:
                types_T[borders[:-1] + place] = kind
        for place, kind in enumerate(reversed(self.suffix), start=1):
            if kind != self.content:
                types_T[borders[1:] - place] = kind
        return types_T


def read_token_types(folder: Path, name: str) -> TokenTypes | None:
    """The token types that transformers' tokenizer in `folder` gives a single text; None: it gives none.

    Raises:
        UsageError: transformers cannot load the tokenizer. `name` is the model's, for the message.
    """
    from transformers import AutoTokenizer  # a slow import; whoever asks has loaded transformers' model

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
        given = tokenizer("a", return_special_tokens_mask=True)
    except Exception as error:  # noqa: BLE001 - the Rust library raises bare Exception
        reason = one_line(error)
        raise UsageError(
            f"model.name={name}: transformers cannot load its tokenizer ({type(error).__name__}: {reason}); "
            "fetch the model again, or save it with AutoTokenizer.save_pretrained"
        ) from None
    types = given.get("token_type_ids")
    if types is None:
        return None
    inside = [place for place, special in enumerate(given["special_tokens_mask"]) if not special]
    first, last = (inside[0], inside[-1] + 1) if inside else (len(types), len(types))
    return TokenTypes(tuple(types[:first]), types[inside[0]] if inside else 0, tuple(types[last:]))
