"""WordNet as a labelled corpus: glosses, the words that they define, and lexicographer classes.

    python -m benchmarks.wordnet DICT_FOLDER OUT_FOLDER

DICT_FOLDER holds WordNet's data.noun, data.verb, data.adj and data.adv (Debian's wordnet-base: usr/share/wordnet). Written:

    corpus.parquet    id (n00001740), text (the gloss without its examples), lexname (one of 45 classes), words
    queries.parquet   id and text: a word, `_` replaced by a space
    qrels.parquet     query, document, relevance 1: every gloss of the word (a reverse dictionary)

File format: wndb(5WN). Nothing is fetched.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 8192  # of a row group, so that the corpus has several shards
FILES = {"n": "data.noun", "v": "data.verb", "a": "data.adj", "r": "data.adv"}
LEXNAMES = """
    adj.all adj.pert adv.all noun.Tops noun.act noun.animal noun.artifact noun.attribute noun.body noun.cognition
    noun.communication noun.event noun.feeling noun.food noun.group noun.location noun.motive noun.object noun.person
    noun.phenomenon noun.plant noun.possession noun.process noun.quantity noun.relation noun.shape noun.state
    noun.substance noun.time verb.body verb.change verb.cognition verb.communication verb.competition verb.consumption
    verb.contact verb.creation verb.emotion verb.motion verb.perception verb.possession verb.social verb.stative
    verb.weather adj.ppl
""".split()  # noqa: SIM905 - lexnames(5WN), by number


class Synset(NamedTuple):
    id: str
    gloss: str
    lexname: str
    words: list[str]


def read_synsets(folder: Path) -> Iterator[Synset]:
    """Every synset, in the order of the files."""
    for kind, name in FILES.items():
        for line in (folder / name).read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("  "):  # the licence
                continue
            fields, _, gloss = line.partition(" | ")
            offset, lexname, _, count, *rest = fields.split(" ")
            words = [rest[2 * place].partition("(")[0] for place in range(int(count, 16))]
            yield Synset(kind + offset, gloss.partition('; "')[0].strip(), LEXNAMES[int(lexname)], words)


def main() -> None:
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    target.mkdir(parents=True, exist_ok=True)
    synsets = list(read_synsets(source))
    corpus = {
        "id": [synset.id for synset in synsets],
        "text": [synset.gloss for synset in synsets],
        "lexname": [synset.lexname for synset in synsets],
        "words": [", ".join(synset.words) for synset in synsets],
    }
    pq.write_table(pa.table(corpus), target / "corpus.parquet", row_group_size=ROWS)
    pairs = list(dict.fromkeys((word.lower(), synset.id) for synset in synsets for word in synset.words))
    words = list(dict.fromkeys(word for word, _ in pairs))
    pq.write_table(pa.table({"id": words, "text": [word.replace("_", " ") for word in words]}), target / "queries.parquet")
    qrels = {"query": [word for word, _ in pairs], "document": [id_ for _, id_ in pairs], "relevance": [1] * len(pairs)}
    pq.write_table(pa.table(qrels), target / "qrels.parquet")
    print(f"{len(synsets):,} glosses, {len(words):,} words, {len(pairs):,} pairs")


if __name__ == "__main__":
    main()
