"""Options of `embed` and `plan` that stand for settings, so that the simplest use needs no YAML; some of other commands.

    reembed embed --corpus texts/ --output vectors/ --text body --keep lang,url

Those of embed and plan win over CONFIG and over key=value. Every other setting is reached by key=value as before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workers.errors import UsageError

if TYPE_CHECKING:
    from jobs.config import RunConfig

MaybeConfig = Annotated[
    str | None, typer.Argument(metavar="CONFIG", help="YAML file; not needed with --corpus and --output.")
]
Corpus = Annotated[list[str] | None, typer.Option(metavar="URI", help="corpus.uri: object, folder or glob; repeatable.")]
Output = Annotated[str | None, typer.Option(metavar="URI", help="output.uri: folder of the embeddings.")]
Model = Annotated[str | None, typer.Option(metavar="NAME", help="model.name")]
Text = Annotated[str | None, typer.Option(metavar="COLUMN", help="corpus.text")]
Id = Annotated[str | None, typer.Option("--id", metavar="COLUMN", help="corpus.id")]
Keep = Annotated[str | None, typer.Option(metavar="COLUMN,COLUMN", help="corpus.keep")]
FromRun = Annotated[
    str | None, typer.Option("--from", metavar="RUN_ID", help="Default: the snapshot before. none: all rows are added.")
]
ChangesFor = Annotated[
    str | None,
    typer.Option("--consumer", metavar="NAME", help="From what NAME has acknowledged; kept until it acknowledges more."),
]
Whole = Annotated[
    bool, typer.Option("--whole", help="Read unchanged parts too: for a corpus in which an id may occur twice.")
]
IndexUri = Annotated[str | None, typer.Option(metavar="INDEX_URI", help="Output of `reembed index`: asks its files.")]
StoreName = Annotated[
    str, typer.Argument(metavar="STORE", help="pgvector, lancedb, qdrant, milvus, opensearch or elasticsearch.")
]
Where = Annotated[str, typer.Argument(metavar="WHERE", help="The database: connection string, folder or address.")]
Table = Annotated[str, typer.Option(metavar="NAME", help="Table or collection; made if there is none.")]
LoadedBy = Annotated[
    str | None, typer.Option("--consumer", metavar="NAME", help="Whom the snapshot is kept for. Default: STORE-TABLE.")
]


def configured(config: str | None, overrides: Sequence[str] | None, **flags: Any) -> RunConfig:
    """The configuration. `flags`: corpus, output, model, text, id and keep, each None where it is not given.

    Raises: UsageError.
    """
    from jobs.config import load_config

    settings = list(overrides or ())
    if config is not None and "=" in config and not config.endswith((".yaml", ".yml")):  # a key=value, and no file
        settings.insert(0, config)
        config = None
    if config is None and not (flags["corpus"] and flags["output"]):
        raise UsageError("give CONFIG, a YAML file, or both --corpus and --output; `reembed embed --help` lists the options")
    keep = flags["keep"]
    named = {
        "corpus.uri": flags["corpus"],
        "corpus.text": flags["text"],
        "corpus.id": flags["id"],
        "corpus.keep": keep.split(",") if keep is not None else None,
        "model.name": flags["model"],
        "output.uri": flags["output"],
    }
    return load_config(config, settings, {name: value for name, value in named.items() if value is not None})
