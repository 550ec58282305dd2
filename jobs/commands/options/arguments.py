"""Arguments and options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Config = Annotated[str, typer.Argument(metavar="CONFIG", help="YAML file.")]
Target = Annotated[str, typer.Argument(metavar="CONFIG|OUTPUT_URI", help="YAML file, or the folder of the embeddings.")]
Output = Annotated[str, typer.Argument(metavar="OUTPUT_URI", help="Folder of the embeddings (or a YAML file).")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[key=value]...", help="Settings, e.g. model.pooling=cls.")]
RunId = Annotated[str, typer.Argument(metavar="RUN_ID", help="As `reembed snapshots` lists it.")]
Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object on stdout.")]
