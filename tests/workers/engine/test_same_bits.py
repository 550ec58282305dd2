"""An attempt that is repeated by another process gives the same bits, for every way to run a model on a CPU.

The other process has done other work before, as a replica has that takes over a shard.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import transformers

from tests.workers.families import FAMILIES, TINY, save_family, sequences
from tests.workers.models import layout
from workers.config import Precision
from workers.engine.encoder import Encoder, EncoderOptions
from workers.engine.ways.supported import fuses_bfloat16
from workers.model.golden import GOLDEN_TEXTS
from workers.model.tokenizer import TextTokenizer

ROOT = Path(__file__).resolve().parents[3]
FNET = {name: TINY[name] for name in TINY if name != "num_attention_heads"}
MODELS = {
    "Bert": FAMILIES["Bert"],
    "Albert": FAMILIES["Albert"],
    "DebertaV2": FAMILIES["DebertaV2"],
    "FNet": transformers.FNetConfig(**FNET),
}
WAYS = {
    "fused float32": ("Bert", "float32"),
    "packed": ("Albert", "float32"),
    "padded": ("DebertaV2", "float32"),
    "equal lengths": ("FNet", "float32"),
} | ({"fused bfloat16": ("Bert", "bfloat16"), "fused int8": ("Bert", "int8")} if fuses_bfloat16() else {})


def digests(folder: Path, before: int) -> dict[str, str]:
    """Way -> digest of the vectors of one call, after `before` other calls."""
    found = {}
    for family, precision in WAYS.values():
        files, recipe = layout(folder / family)
        golden = TextTokenizer(files.folder, recipe).tokenize(GOLDEN_TEXTS)
        encoder = Encoder(files, recipe, golden, EncoderOptions(Precision(precision), 300, threads=2))
        for size in range(before):
            encoder.encode(sequences(20 + size, 100))
        vectors = encoder.encode(sequences(60, 90)).vectors
        assert np.isfinite(vectors).all()
        found[encoder.way] = hashlib.sha256(vectors.tobytes()).hexdigest()
    return found


@pytest.mark.slow
def test_another_process_gives_the_same_bits(minilm: Path, tmp_path: Path) -> None:
    for name, config in MODELS.items():
        save_family(minilm, tmp_path / name, config)
    code = (
        f"import json, pathlib; from {__name__} import digests as found; folder = pathlib.Path({str(tmp_path)!r}); "
        "print(json.dumps(found(folder, 1)))"
    )
    other = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert other.returncode == 0, other.stderr
    here = digests(tmp_path, 0)
    assert set(here) == set(WAYS), "a way is not taken any more"
    assert json.loads(other.stdout.splitlines()[-1]) == here
