"""sentence-transformers with its OpenVINO backend: read all texts, `encode`, write one Parquet file.

    python -m benchmarks.contestants.st_openvino CORPUS.parquet OUTPUT --model EXPORTED [--precision f32] [--weights int8]

EXPORTED is what openvino_export made, beforehand and not counted: this run loads and compiles it, as any later run of a user
would. Without --precision OpenVINO decides (bfloat16 where the processor has it); f32 is its INFERENCE_PRECISION_HINT. int8
is the calibrated file beside the other; what it leaves unquantised runs in the precision OpenVINO decides on. The note says
what the compiled model reports, not what was asked for. `encode` sorts by length itself; OpenVINO uses all cores by itself.

Tuned: batches of 8, 16, 32, 64, 128 on length-sorted windows of the Debian corpus (128 short, middling and long texts each),
two cores, best of four: bfloat16 3.42, 3.37, 3.60, 3.74, 4.32 s, int8 2.62, 2.28, 2.39, 2.50, 2.85 s. The roster takes 16,
not encode's own 32. One stream with all cores is OpenVINO's own choice (its latency hint, which encode's one batch at a time
needs).
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks.contestants.files import arguments, read_corpus, write_note, write_vectors
from benchmarks.contestants.openvino_export import FILES


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--precision", choices=("f32", "bf16"), help="INFERENCE_PRECISION_HINT; else OpenVINO's own choice")
    parser.add_argument("--weights", choices=tuple(FILES), default="float")
    parser.add_argument("--batch-size", type=int, default=32)
    options = parser.parse_args()
    ids, texts = read_corpus(options.corpus)

    from sentence_transformers import SentenceTransformer

    began = time.perf_counter()
    settings: dict[str, Any] = {"file_name": FILES[options.weights]}
    if options.precision:
        settings["ov_config"] = {"INFERENCE_PRECISION_HINT": options.precision}
    model = SentenceTransformer(options.model, device="cpu", backend="openvino", model_kwargs=settings)
    loaded = time.perf_counter()
    vectors = model.encode(texts, batch_size=options.batch_size, show_progress_bar=False, convert_to_numpy=True)
    encoded = time.perf_counter()
    write_vectors(options.output, ids, vectors)
    compiled = model.transformers_model.request
    write_note(
        options.output,
        precision=compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name(),
        weights=options.weights,
        threads=compiled.get_property("INFERENCE_NUM_THREADS"),
        streams=str(compiled.get_property("NUM_STREAMS")),
        batch_size=options.batch_size,
        load_seconds=round(loaded - began, 2),
        encode_seconds=round(encoded - loaded, 2),
    )


if __name__ == "__main__":
    main()
