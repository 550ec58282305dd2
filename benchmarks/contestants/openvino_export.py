"""Exports a model for st_openvino, once and not counted: the float model, and int8 calibrated on texts of the corpus.

    python -m benchmarks.contestants.openvino_export CORPUS.parquet OUTPUT --model FOLDER [--samples 300] [--seed 1]

int8 is sentence-transformers' own `export_static_quantized_openvino_model` with its default configuration, except that it is
calibrated on a seeded sample of the corpus to be embedded, which is kinder to it than the film reviews it takes by default.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.contestants.files import arguments

FILES = {"float": "openvino/openvino_model.xml", "int8": "openvino/openvino_model_qint8_quantized.xml"}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    texts = pq.read_table(options.corpus, columns=["text"])
    chosen = np.random.default_rng(options.seed).choice(len(texts), min(options.samples, len(texts)), replace=False)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_HOME"] = folder  # before the imports: the calibration texts are cached below it
        (Path(folder) / "calibration").mkdir()
        pq.write_table(texts.take(chosen), Path(folder) / "calibration" / "train.parquet")

        from optimum.intel import OVQuantizationConfig
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.backend import export_static_quantized_openvino_model

        model = SentenceTransformer(options.model, device="cpu", backend="openvino", model_kwargs={"export": True})
        model.save_pretrained(str(options.output))
        export_static_quantized_openvino_model(
            model,
            OVQuantizationConfig(num_samples=len(chosen)),
            str(options.output),
            dataset_name=str(Path(folder) / "calibration"),
            dataset_config_name="default",
            dataset_split="train",
            column_name="text",
        )
    missing = [name for name in FILES.values() if not (options.output / name).is_file()]
    if missing:
        raise SystemExit(f"{options.output}: the export did not write {', '.join(missing)}")


if __name__ == "__main__":
    main()
