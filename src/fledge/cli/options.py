"""Options that several commands share, spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ProjectDir = Annotated[Path, typer.Option("-C", "--project", metavar="DIR", help="The project folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; words go to stderr.")]
Knobs = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Knobs of fledge.yaml, for example train.epochs=3.", show_default=False),
]
Target = Annotated[str, typer.Argument(metavar="TARGET", help="A run (7, latest), a .gguf file or a catalog name.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run: its number, latest, or its folder.")]
ModelName = Annotated[str, typer.Argument(metavar="NAME", help="A name from `fledge models list`.")]
HERE = Path()
