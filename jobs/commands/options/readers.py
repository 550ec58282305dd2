"""Commands for those who read a snapshot: `changes` and `load` for copies of it elsewhere, `search` for its documents."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.commands.options.arguments import Json, Output, Target
from jobs.commands.options.results import show
from workers.errors import UsageError

FromRun = Annotated[
    str | None, typer.Option("--from", metavar="RUN_ID", help="Default: the snapshot before. none: all rows are added.")
]
Consumer = Annotated[
    str | None,
    typer.Option("--consumer", metavar="NAME", help="From what NAME has acknowledged; kept until it acknowledges more."),
]
Whole = Annotated[
    bool, typer.Option("--whole", help="Read unchanged parts too: for a corpus in which an id may occur twice.")
]
LoadedBy = Annotated[
    str | None, typer.Option("--consumer", metavar="NAME", help="Whom the snapshot is kept for. Default: STORE-TABLE.")
]


def changes(
    target: Target,
    from_run: FromRun = None,
    to_run: Annotated[str | None, typer.Option("--to", metavar="RUN_ID", help="Default: the published snapshot.")] = None,
    into: Annotated[str | None, typer.Option(metavar="URI", help="Write the rows there; else they are counted.")] = None,
    consumer: Consumer = None,
    whole: Whole = False,
    ack: Annotated[str | None, typer.Option(metavar="RUN_ID", help="The consumer has applied the set to RUN_ID.")] = None,
    forget: Annotated[bool, typer.Option("--forget", help="The consumer is no more; nothing is kept for it.")] = False,
    as_json: Json = False,
) -> None:
    """What a loader must delete, upsert and patch between two snapshots, as counts and as Parquet."""
    from jobs.commands.changes import acknowledge, changes_text, find_changes
    from jobs.commands.changes import forget as forget_consumer

    others = from_run or to_run or into or whole
    if (ack is not None or forget) and (consumer is None or others or (ack is not None and forget)):
        raise UsageError("--ack RUN_ID, and --forget, go with --consumer NAME and with nothing else")
    if consumer is not None and ack is not None:
        report = acknowledge(target, consumer, ack)
    elif consumer is not None and forget:
        report = forget_consumer(target, consumer)
    else:
        report = find_changes(target, from_run, to_run, into, consumer, whole)
    show(report, as_json, changes_text)


def load(
    store: Annotated[
        str, typer.Argument(metavar="STORE", help="pgvector, lancedb, qdrant, milvus, opensearch or elasticsearch.")
    ],
    output: Output,
    where: Annotated[str, typer.Argument(metavar="WHERE", help="The database: connection string, folder or address.")],
    table: Annotated[str, typer.Option(metavar="NAME", help="Table or collection; made if there is none.")] = "embeddings",
    consumer: LoadedBy = None,
    as_json: Json = False,
) -> None:
    """Bring a table of a vector store to the published snapshot. The same command again is a no-op."""
    from jobs.commands.load import load_snapshot, load_text

    show(load_snapshot(store, output, where, table, consumer), as_json, load_text)


def search(
    output: Output,
    text: Annotated[str, typer.Argument(help="What to look for.")],
    k: Annotated[int, typer.Option("-k", min=1, help="How many documents.")] = 10,
    index: Annotated[
        str | None, typer.Option(metavar="INDEX_URI", help="Output of `reembed index`: asks its files.")
    ] = None,
    where: Annotated[str | None, typer.Option(help="Only rows for which it holds, e.g. \"lang = 'de'\".")] = None,
    column: Annotated[
        str, typer.Option(metavar="NAME", help="The vectors that score: a column of output.vectors.")
    ] = "embedding",
    first: Annotated[
        str | None, typer.Option(metavar="NAME", help="A smaller column of vectors that finds the candidates.")
    ] = None,
    oversample: Annotated[
        int | None, typer.Option(min=1, help="With --first: candidates for each document wanted (10).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Nearest documents in the published snapshot."""
    from jobs.commands.search import Columns, search_snapshot, search_text

    columns = Columns(column, first, oversample)
    show(search_snapshot(output, text, k, index=index, where=where, columns=columns), as_json, search_text)
