"""Descriptions of Debian's packages with their sections: the 30,000 of a corpus to train, all others to test.

    apt-get -c FILE update, where FILE says `#clear Acquire::Languages;` and names folders of its own
    python -m benchmarks.debian_sections OUT.parquet --train debian-packages.parquet --packages LIST --translation LIST

LIST: `*_Packages.lz4` and `*_i18n_Translation-en.lz4` below Dir::State::lists. Columns: id, text, section, split (`train`:
the corpus as it is; `test`: every other package of the lists). Embedded with corpus.keep=[section, split], evaluated with
evaluate.split.column=split. A text is the synopsis and the description's lines joined by blanks, as in the corpus; the
share of the corpus' texts that this gives again is printed.
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def stanzas(path: Path) -> Iterator[dict[str, str]]:
    """Paragraphs of a control file that is compressed with lz4; lines of a value are joined by newlines."""
    whole = subprocess.run(["lz4", "-dc", str(path)], capture_output=True, check=True).stdout.decode()
    for paragraph in whole.split("\n\n"):
        found: dict[str, str] = {}
        name = ""
        for line in paragraph.splitlines():
            if line[:1].isspace():
                found[name] += "\n" + line[1:]
            elif line:
                name, _, value = line.partition(": ")
                found[name] = value
        if found:
            yield found


def text_of(described: str) -> str:
    """One line of a synopsis and its description."""
    lines = (line.strip() for line in described.splitlines())
    return " ".join(" ".join(line for line in lines if line and line != ".").split())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    for name in ("train", "packages", "translation"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args()
    corpus = pq.read_table(args.train, columns=["id", "text", "section"])
    texts = dict(zip(corpus.column("id").to_pylist(), corpus.column("text").to_pylist(), strict=True))
    described = {each["Package"]: text_of(each["Description-en"]) for each in stanzas(args.translation)}
    again = sum(described.get(name) == text for name, text in texts.items())
    print(f"{again:,} of {len(texts):,} texts of the corpus come out the same")
    rows: dict[str, tuple[str, str]] = {}
    for each in stanzas(args.packages):
        name = each["Package"]
        if name in described and name not in texts and "Section" in each:
            rows[name] = (described[name], each["Section"])
    names = sorted(rows)
    rest = pa.table({"id": names, "text": [rows[name][0] for name in names], "section": [rows[name][1] for name in names]})
    whole = pa.concat_tables(
        [
            corpus.append_column("split", pa.array(["train"] * len(corpus))),
            rest.append_column("split", pa.array(["test"] * len(rest))).cast(
                corpus.append_column("split", pa.array(["train"] * len(corpus))).schema
            ),
        ]
    )
    pq.write_table(whole, args.out, row_group_size=2000)
    print(f"{len(corpus):,} rows to train, {len(rest):,} to test")


if __name__ == "__main__":
    main()
