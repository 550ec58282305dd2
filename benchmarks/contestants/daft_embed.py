"""Daft: read_parquet -> embed_text -> write_parquet on its native runner.

    python -m benchmarks.contestants.daft_embed CORPUS.parquet OUTPUT --model FOLDER [--batch-size 64] [--concurrency 1]

Tuned: Daft's own choices were the best of those tried (300 rows, two cores: its own 9.4 s and 14 CPU seconds, --batch-size
300 10.9 s and 15, --batch-size 64 --concurrency 1 18 s and 22). Its provider "transformers", which is sentence-transformers
inside, offers float32 alone.
"""

from __future__ import annotations

import os
from typing import Any

from benchmarks.contestants.files import arguments, write_note

os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")
os.environ.setdefault("DO_NOT_TRACK", "true")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--batch-size", type=int, help="rows that the embedder gets, and sorts by length, at a time")
    parser.add_argument("--concurrency", type=int)
    options = parser.parse_args()

    import daft
    from daft.functions import embed_text

    settings: dict[str, Any] = {"batch_size": options.batch_size, "concurrency": options.concurrency}
    settings = {name: value for name, value in settings.items() if value is not None}
    embedding = embed_text(daft.col("text"), provider="transformers", model=options.model, **settings)
    data = daft.read_parquet(str(options.corpus)).select("id", embedding.alias("embedding"))
    data.write_parquet(str(options.output))
    write_note(options.output, **settings)


if __name__ == "__main__":
    main()
