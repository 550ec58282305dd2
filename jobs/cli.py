"""The command line `reembed`: its commands, exit statuses and output streams.

Arguments and options of a command: jobs/commands/options. What it does: jobs/commands, and the jobs in rooms of their own.
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
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from jobs.commands.options import readers, runs, snapshot_jobs, snapshots
from jobs.commands.options.results import EXIT_ABORTED, EXIT_DEFECT, EXIT_OK, EXIT_USAGE
from jobs.driver.log_lines import StderrHandler
from jobs.driver.unexpected import described, hook, machine_full, stack_file
from workers import __version__
from workers.errors import ReembedError, UsageError
from workers.host.without_pandas import without_pandas

COMMANDS: tuple[Callable[..., None], ...] = (  # as --help lists them
    runs.embed, runs.plan, runs.status,
    snapshots.verify, snapshots.files, snapshots.snapshots, snapshots.rollback, snapshots.publish,
    readers.changes, readers.load, readers.search,
    snapshot_jobs.reduce, snapshot_jobs.cluster, snapshot_jobs.dedup, snapshot_jobs.index, snapshot_jobs.evaluate,
)  # fmt: skip
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


class _Commands(TyperGroup):
    """Errors of a command reach main(): click ends the process in silence, with status 1, on any broken pipe."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise RuntimeError(f"a process or connection ended that was being written to: {error}") from error


class _Command(TyperCommand):
    """Called once its arguments are known to be good."""

    def invoke(self, ctx: Any) -> Any:
        without_pandas()
        return super().invoke(ctx)


app = typer.Typer(
    name="reembed",
    cls=_Commands,
    help="Re-embed a text corpus with a BERT model on a Ray cluster: exact, resumable, published atomically.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _command in COMMANDS:
    app.command(cls=_Command)(_command)


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
