"""The configuration of `embed` and `plan`: CONFIG, key=value, and options that stand for settings.

    reembed embed --corpus texts/ --output vectors/ --text body --keep lang,url

With the options the simplest use needs no YAML. They win over CONFIG and over key=value. Every other setting is reached by
key=value.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from jobs.commands.options.arguments import Overrides
from workers.errors import UsageError

if TYPE_CHECKING:
    from jobs.config import RunConfig

LATE = {"RunConfig": Any}  # names in annotations that are not imported before a command is called
MaybeConfig = Annotated[
    str | None, typer.Argument(metavar="CONFIG", help="YAML file; not needed with --corpus and --output.")
]
Corpus = Annotated[list[str] | None, typer.Option(metavar="URI", help="corpus.uri: object, folder or glob; repeatable.")]
Output = Annotated[str | None, typer.Option(metavar="URI", help="output.uri: folder of the embeddings.")]
Model = Annotated[str | None, typer.Option(metavar="NAME", help="model.name")]
Text = Annotated[str | None, typer.Option(metavar="COLUMN", help="corpus.text")]
Id = Annotated[str | None, typer.Option("--id", metavar="COLUMN", help="corpus.id")]
Keep = Annotated[str | None, typer.Option(metavar="COLUMN,COLUMN", help="corpus.keep")]


def configured(
    config: MaybeConfig = None,
    overrides: Overrides = None,
    corpus: Corpus = None,
    output: Output = None,
    model: Model = None,
    text: Text = None,
    id_column: Id = None,
    keep: Keep = None,
) -> RunConfig:
    """The configuration that is given so. Raises: UsageError."""
    from jobs.config import load_config

    settings = list(overrides or ())
    if config is not None and "=" in config and not config.endswith((".yaml", ".yml")):  # a key=value, and no file
        settings.insert(0, config)
        config = None
    if config is None and not (corpus and output):
        raise UsageError("give CONFIG, a YAML file, or both --corpus and --output; `reembed embed --help` lists the options")
    named = {
        "corpus.uri": corpus,
        "corpus.text": text,
        "corpus.id": id_column,
        "corpus.keep": keep.split(",") if keep is not None else None,
        "model.name": model,
        "output.uri": output,
    }
    return load_config(config, settings, {name: value for name, value in named.items() if value is not None})


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """`command`, which is given a RunConfig first, as one that is given the parameters of `configured` in its place."""
    settings, own = _parameters(configured), _parameters(command)[1:]

    @functools.wraps(command)
    def called(**given: Any) -> None:
        config = configured(**{parameter.name: given.pop(parameter.name) for parameter in settings})
        command(config, **given)

    called.__annotations__ = {parameter.name: parameter.annotation for parameter in (*settings, *own)}
    vars(called)["__signature__"] = inspect.Signature([*settings, *own])  # which typer reads
    return called


def _parameters(function: Callable[..., object]) -> list[inspect.Parameter]:
    """A function's parameters, their annotations as types."""
    types = get_type_hints(function, localns=LATE, include_extras=True)
    given = inspect.signature(function).parameters.values()
    return [parameter.replace(annotation=types[parameter.name]) for parameter in given]
