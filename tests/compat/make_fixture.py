"""Makes what lies in `fixture/`, with the code of an earlier commit. Run once; today's code must never write there.

    git worktree add /tmp/earlier 8645ff9
    cd /tmp/earlier && PYTHONPATH=/tmp/earlier python …/tests/compat/make_fixture.py …/tests/compat/fixture

    fixture/model/            a BERT of random weights, 2 layers, 32 dimensions, a vocabulary of the corpus' words
    fixture/corpus/night-N/   the source on three nights (the third is for today's code)
    fixture/finished/         output after nights 1 and 2: two published snapshots
    fixture/interrupted/      output of night 1 whose driver was killed after some receipts
    fixture/made.json         the commit, versions of libraries, receipts of the interrupted run

report.html is left out of the outputs: it is large, and no command reads it.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import tokenizers
import torch
import transformers
import yaml
from source_server import BUCKET, PREFIX, SourceServer, serve

import jobs.cli

WORDS = [
    "harbour", "winter", "flour", "lamp", "oil", "letter", "pilot", "gull",
    "boat", "morning", "street", "clock", "river", "stone", "garden", "window",
    "paper", "salt", "copper", "bridge", "market", "school", "train", "field",
    "cloud", "apple", "sugar", "wheel", "music", "night", "island", "forest",
]  # fmt: skip
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROWS = 14
Rows = list[dict[str, Any]]
Objects = dict[str, Rows]


def make_model(folder: Path) -> None:
    words = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({word: at for at, word in enumerate([*SPECIAL, *WORDS])}, unk_token="[UNK]")
    )
    words.normalizer = tokenizers.normalizers.BertNormalizer()
    words.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    words.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    ).save_pretrained(folder)
    torch.manual_seed(3)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = transformers.BertConfig(
        **sizes, vocab_size=len(SPECIAL) + len(WORDS), max_position_embeddings=64, initializer_range=0.2
    )
    transformers.AutoModel.from_config(config).save_pretrained(folder)


def first_night() -> Objects:
    chance = random.Random(8)
    return {
        name: [
            {
                "id": f"{name[0]}-{row:02d}",
                "text": " ".join(chance.choices(WORDS, k=chance.randint(3, 14))) + f" {name[0]} {row}",
                "place": name[0],
                "year": 1900 + row,
            }
            for row in range(ROWS)
        ]
        for name in ("a.jsonl", "b.jsonl", "c.jsonl", "d.parquet", "e.parquet", "f.jsonl")
    }


def next_night(before: Objects, changed: str, deleted: str | None = None) -> Objects:
    """One text of an object changes, one row goes, one comes, another row's text comes once more."""
    rows = [dict(row) for row in before[changed]]
    rows[3]["text"] = f"{rows[3]['text']} night"
    rows.append({"id": f"{changed[0]}-new", "text": "island forest music", "place": changed[0], "year": 2000})
    rows.append({"id": f"{changed[0]}-copy", "text": rows[0]["text"], "place": changed[0], "year": 2001})
    del rows[5]
    return {name: rows if name == changed else kept for name, kept in before.items() if name != deleted}


def write_corpus(folder: Path, objects: Objects) -> None:
    folder.mkdir(parents=True)
    for name, rows in objects.items():
        if name.endswith(".parquet"):
            pq.write_table(pa.Table.from_pylist(rows), folder / name, row_group_size=ROWS, compression="zstd")
        else:
            (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (folder / "f.jsonl").open("a") as lines:  # a row for the quarantine
        lines.write('{"id": "f-bad", "text": \n')


def configure(path: Path, output: Path, model: Path, server: SourceServer) -> Path:
    sections = {
        "corpus": {
            "uri": f"s3://{BUCKET}/{PREFIX}",
            "id": "id",
            "keep": ["place", "year"],
            "storage_options": server.options,
        },
        "model": {"name": str(model), "precision": "float32"},
        "output": {"uri": str(output)},
        "cluster": {"address": "local", "replicas": 1, "cpus_per_replica": 1, "gpus_per_replica": 0},
        "run": {"shard_bytes": 1024, "max_quarantined_rows": 2},
    }
    path.write_text(yaml.safe_dump(sections))
    return path


def command(config: Path) -> list[str]:
    return [sys.executable, "-m", "jobs.cli", "embed", str(config), "--json"]


def embed(config: Path) -> None:
    subprocess.run(command(config), check=True, stdout=subprocess.DEVNULL)


def interrupt(config: Path, output: Path) -> int:
    """SIGKILL to the driver's whole session once there are receipts; how many shards had one."""
    driver = subprocess.Popen(command(config), stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        while len(list(output.glob("runs/*/receipts/**/*.json"))) < 2:
            if driver.poll() is not None:
                raise RuntimeError("the driver ended before it had two receipts")
            time.sleep(0.001)
    finally:
        for pid in _session(driver.pid):
            os.kill(pid, signal.SIGKILL)
        driver.wait()
    if list(output.glob("runs/*/summary.json")):
        raise RuntimeError("the run was over before the driver was killed")
    return len(list(output.glob("runs/*/receipts/**/*.json")))


def _session(leader: int) -> list[int]:
    """The leader first, so that it hears nothing of the others' death."""
    pids = [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()]
    return sorted((pid for pid in pids if _session_of(pid) == leader), key=lambda pid: pid != leader)


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def main(target: Path) -> None:
    earlier = Path(jobs.cli.__file__).resolve().parent.parent
    if Path(__file__).resolve().is_relative_to(earlier):
        raise SystemExit(f"{earlier}: this is today's code; set PYTHONPATH to a checkout of the earlier commit")
    if target.exists():
        raise SystemExit(f"{target}: is there already")
    target.mkdir(parents=True)
    make_model(target / "model")
    first = first_night()
    second = next_night(first, changed="b.jsonl")
    third = next_night(second, changed="d.parquet", deleted="a.jsonl")
    for number, objects in enumerate((first, second, third), 1):
        write_corpus(target / "corpus" / f"night-{number}", objects)

    with serve(target / "corpus" / "night-1") as server:
        config = configure(target / "interrupted.yaml", target / "interrupted", target / "model", server)
        receipts = interrupt(config, target / "interrupted")
        config = configure(target / "finished.yaml", target / "finished", target / "model", server)
        for number in (1, 2):
            server.folder = target / "corpus" / f"night-{number}"
            embed(config)
    for path in (*target.glob("*.yaml"), *target.glob("*/runs/*/report.html")):
        path.unlink()
    made = {
        "commit": subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=earlier, text=True).strip(),
        "versions": {name: importlib.metadata.version(name) for name in ("ray", "torch", "transformers", "pyarrow")},
        "receipts": receipts,
    }
    (target / "made.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
    shutil.rmtree(Path(__file__).parent / "__pycache__", ignore_errors=True)
