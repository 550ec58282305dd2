"""The command line `reembed`: arguments, exit statuses and output streams. Work is done in jobs/commands, jobs/embed.

Results go to stdout (with --json exactly one JSON object), logs, progress and errors to stderr. A command's modules are
imported when it is called, so that --help and --version answer at once.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from jobs.commands import flags
from jobs.driver.log_lines import StderrHandler
from jobs.driver.unexpected import described, hook, machine_full, stack_file
from workers import __version__
from workers.errors import ReembedError, UsageError

if TYPE_CHECKING:
    from jobs.passes.kind import JobKind

EXIT_OK, EXIT_DEFECT, EXIT_USAGE, EXIT_REFUSED, EXIT_ABORTED = 0, 1, 2, 3, 4
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


class _Commands(TyperGroup):
    """Errors of a command reach main(): click ends the process in silence, with status 1, on any broken pipe."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise RuntimeError(f"a process or connection ended that was being written to: {error}") from error


app = typer.Typer(
    name="reembed",
    cls=_Commands,
    help="Re-embed a text corpus with a BERT model on a Ray cluster: exact, resumable, published atomically.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Config = Annotated[str, typer.Argument(metavar="CONFIG", help="YAML file.")]
Target = Annotated[str, typer.Argument(metavar="CONFIG|OUTPUT_URI", help="YAML file, or the folder of the embeddings.")]
Output = Annotated[str, typer.Argument(metavar="OUTPUT_URI", help="Folder of the embeddings (or a YAML file).")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[key=value]...", help="Settings, e.g. model.pooling=cls.")]
RunId = Annotated[str, typer.Argument(metavar="RUN_ID", help="As `reembed snapshots` lists it.")]
Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object on stdout.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"reembed {__version__}")
        raise typer.Exit(EXIT_OK)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options that come before a command."""


@app.command()
def embed(
    config: flags.MaybeConfig = None,
    overrides: Overrides = None,
    corpus: flags.Corpus = None,
    output: flags.Output = None,
    model: flags.Model = None,
    text: flags.Text = None,
    id_column: flags.Id = None,
    keep: flags.Keep = None,
    as_json: Json = False,
) -> None:
    """Run, or resume what was interrupted. The same command again is a no-op."""
    from jobs.embed.job import embed_corpus
    from jobs.report.summary import summary_text

    given = {"corpus": corpus, "output": output, "model": model, "text": text, "id": id_column, "keep": keep}
    settings = flags.configured(config, overrides, **given)
    with contextlib.redirect_stdout(sys.stderr):  # Ray prints its workers' messages; stdout is for the result
        summary = embed_corpus(settings)
    _print(summary, as_json, summary_text)
    if not summary["published"]:
        raise typer.Exit(EXIT_REFUSED)


@app.command()
def plan(
    config: flags.MaybeConfig = None,
    overrides: Overrides = None,
    corpus: flags.Corpus = None,
    output: flags.Output = None,
    model: flags.Model = None,
    text: flags.Text = None,
    id_column: flags.Id = None,
    keep: flags.Keep = None,
    must_fit: Annotated[
        bool, typer.Option("--must-fit", help="Exit with 2 if it exceeds cost.max_tokens or cost.max_usd.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Dry run: objects, shards, rows, estimated tokens, GPU-hours, cost, output size. Writes nothing."""
    from jobs.commands.plan import plan_run, plan_text
    from jobs.planning.spending import require_fit

    given = {"corpus": corpus, "output": output, "model": model, "text": text, "id": id_column, "keep": keep}
    report = plan_run(flags.configured(config, overrides, **given))
    if must_fit:
        require_fit(report)
    _print(report, as_json, plan_text)


@app.command()
def status(target: Target, as_json: Json = False) -> None:
    """Progress of the newest run, from storage alone, from any machine."""
    from jobs.commands.status import run_status, status_text

    _print(run_status(target), as_json, status_text)


@app.command()
def verify(
    target: Target,
    sample: Annotated[int, typer.Option(min=0, help="Rows to embed again and compare.")] = 64,
    as_json: Json = False,
) -> None:
    """Audit the published snapshot against its source; names the part that is wrong."""
    from jobs.commands.verify import verify_snapshot, verify_text

    report = verify_snapshot(target, sample)
    _print(report, as_json, verify_text)
    if not report["ok"]:
        raise typer.Exit(EXIT_REFUSED)


@app.command()
def files(output: Output, as_json: Json = False) -> None:
    """The part files of the published snapshot, one URI a line."""
    from jobs.commands.files import published_files

    found = published_files(output)
    _print({"files": found}, as_json, lambda report: "\n".join(report["files"]))


@app.command()
def snapshots(target: Target, as_json: Json = False) -> None:
    """Finished runs whose data is kept: rows, model, when, size, and which one readers have."""
    from jobs.commands.snapshots import list_snapshots, snapshots_text

    _print(list_snapshots(target), as_json, snapshots_text)


@app.command()
def rollback(target: Target, run_id: RunId, as_json: Json = False) -> None:
    """Give readers a snapshot that was published before, in one step."""
    from jobs.commands.rollback import roll_back, rollback_text

    _print(roll_back(target, run_id), as_json, rollback_text)


@app.command()
def publish(
    target: Target,
    run_id: RunId,
    force: Annotated[bool, typer.Option("--force", help="Publish all the same; who did it is recorded.")] = False,
    as_json: Json = False,
) -> None:
    """Say why a finished run was not published; with --force publish it."""
    from jobs.commands.publish import publish_run, publish_text

    report = publish_run(target, run_id, force=force)
    _print(report, as_json, publish_text)
    if not report["published"]:
        raise typer.Exit(EXIT_REFUSED)


@app.command()
def changes(
    target: Target,
    from_run: flags.FromRun = None,
    to_run: Annotated[str | None, typer.Option("--to", metavar="RUN_ID", help="Default: the published snapshot.")] = None,
    into: Annotated[str | None, typer.Option(metavar="URI", help="Write the rows there; else they are counted.")] = None,
    consumer: flags.ChangesFor = None,
    whole: flags.Whole = False,
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
    _print(report, as_json, changes_text)


@app.command()
def load(
    store: flags.StoreName,
    output: Output,
    where: flags.Where,
    table: flags.Table = "embeddings",
    consumer: flags.LoadedBy = None,
    as_json: Json = False,
) -> None:
    """Bring a table of a vector store to the published snapshot. The same command again is a no-op."""
    from jobs.commands.load import load_snapshot, load_text

    _print(load_snapshot(store, output, where, table, consumer), as_json, load_text)


@app.command()
def search(
    output: Output,
    text: Annotated[str, typer.Argument(help="What to look for.")],
    k: Annotated[int, typer.Option("-k", min=1, help="How many documents.")] = 10,
    index: flags.IndexUri = None,
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
    _print(search_snapshot(output, text, k, index=index, where=where, columns=columns), as_json, search_text)


@app.command()
def reduce(config: Config, overrides: Overrides = None, as_json: Json = False) -> None:
    """Make a snapshot of fewer components (PCA) of a snapshot. Resumes; the same command again is a no-op."""
    from jobs.config import load_section
    from jobs.reduce.config import ReduceConfig
    from jobs.reduce.job import Reduce

    _run_job(Reduce(load_section(config, overrides or (), ReduceConfig)), as_json)


@app.command()
def cluster(config: Config, overrides: Overrides = None, as_json: Json = False) -> None:
    """k-means over a snapshot: every row's cluster, words and examples of each, a map. Resumes; again it is a no-op."""
    from jobs.cluster.config import ClusterJobConfig
    from jobs.cluster.job import ClusterJob
    from jobs.config import load_section

    _run_job(ClusterJob(load_section(config, overrides or (), ClusterJobConfig)), as_json=as_json)


@app.command()
def dedup(config: Config, overrides: Overrides = None, as_json: Json = False) -> None:
    """Near-duplicate groups of a snapshot, and which row of each to keep. Resumes; again it is a no-op."""
    from jobs.config import load_section
    from jobs.dedup.config import DedupConfig
    from jobs.dedup.job import DedupJob

    _run_job(DedupJob(load_section(config, overrides or (), DedupConfig)), as_json=as_json)


@app.command()
def index(config: Config, overrides: Overrides = None, as_json: Json = False) -> None:
    """Files for approximate search beside a snapshot; `search --index` uses them. Resumes; again it is a no-op."""
    from jobs.config import load_section
    from jobs.index.config import IndexConfig
    from jobs.index.job import IndexJob

    _run_job(IndexJob(load_section(config, overrides or (), IndexConfig)), as_json=as_json)


@app.command()
def evaluate(
    target: Target,
    overrides: Overrides = None,
    label: Annotated[str | None, typer.Option(metavar="COLUMN", help="Kept column that holds the classes.")] = None,
    as_json: Json = False,
) -> None:
    """How good the vectors of a snapshot are, by labels, queries or graded pairs. OUTPUT_URI with --label writes nothing."""
    from jobs.config import load_section
    from jobs.evaluate.config import EvaluateConfig
    from jobs.evaluate.job import EvaluateJob
    from jobs.evaluate.look import evaluate_snapshot, look_text

    if not target.endswith((".yaml", ".yml")):
        _print(evaluate_snapshot(target, label, overrides or ()), as_json, look_text)
        return
    settings = [*(overrides or ()), *([f"evaluate.label={label}"] if label else ())]
    _run_job(EvaluateJob(load_section(target, settings, EvaluateConfig)), as_json=as_json)


def _run_job(kind: JobKind, as_json: bool) -> None:
    from jobs.passes.job import run_job
    from jobs.passes.summary import summary_text

    with contextlib.redirect_stdout(sys.stderr):  # Ray prints its workers' messages; stdout is for the result
        summary = run_job(kind)
    _print(summary, as_json, lambda report: summary_text(kind, report))
    if not summary["published"]:
        raise typer.Exit(EXIT_REFUSED)


def _print(report: dict[str, Any], as_json: bool, as_text: Callable[[dict[str, Any]], str]) -> None:
    try:
        print(json.dumps(report, ensure_ascii=False, default=str) if as_json else as_text(report), flush=True)
    except BrokenPipeError:  # `reembed files … | head`: its reader has seen enough
        sys.stdout = io.StringIO()


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `reembed` and `python -m jobs.<command>`; ends the process with the contract's exit status."""
    as_json = "--json" in (sys.argv[1:] if arguments is None else arguments)
    try:
        _set_up_streams()
        app(args=arguments, standalone_mode=True)
    except ReembedError as error:
        status = EXIT_USAGE if isinstance(error, UsageError) else getattr(error, "exit_status", EXIT_ABORTED)
        _fail(str(error), status, as_json=as_json)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:  # noqa: BLE001 - the last resort: a stack is for those who mend the defect
        lacks = machine_full(error)
        if lacks is not None:
            _fail(lacks, EXIT_ABORTED, as_json=as_json)
        told = f"a defect of reembed: {described(error)}; report it with its stack, which is in {stack_file(error)}"
        _fail(told, EXIT_DEFECT, as_json=as_json)


def _set_up_streams() -> None:
    """Log lines to stderr. Names that are no UTF-8 are printed escaped, where a strict stream would raise."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if not logging.getLogger().handlers:  # else this process is another program's, which has its own
        logging.basicConfig(handlers=[StderrHandler()], level=logging.WARNING)
    level = os.environ.get("REEMBED_LOG", "INFO").upper()
    if level not in LEVELS:
        raise UsageError(f"REEMBED_LOG={level[:60]}: write one of {', '.join(LEVELS)}")
    logging.getLogger("reembed").setLevel(level)


def _fail(message: str, status: int, *, as_json: bool) -> NoReturn:
    one_line = message.replace("\n", " ")  # names and values that it quotes may hold line ends
    print(f"reembed: {one_line}", file=sys.stderr, flush=True)
    if as_json:
        print(json.dumps({"error": one_line, "exit_status": status}), flush=True)
    raise SystemExit(status)


def run(arguments: list[str] | None = None) -> NoReturn:
    """`main`, then os._exit: everything is flushed and closed by then.

    An ordinary exit runs the C++ libraries' destructors. In about one run of a hundred a pool thread that wakes up meanwhile
    aborts the process ("terminate called without an active exception", exit 134), although all the work is done.
    """
    status: object = 0
    hook()
    try:
        main(arguments)
    except SystemExit as ended:
        status = ended.code
    except BaseException:  # noqa: BLE001 - stderr is closed, or a second error came while the first was told
        status = EXIT_DEFECT
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # closed at the other end
            stream.flush()
    os._exit(status if isinstance(status, int) else 0 if status is None else 1)


if __name__ == "__main__":
    run()
