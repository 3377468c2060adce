"""fledge new: a project folder to begin with."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from fledge.cli.options import AsJson


def new(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make.")],
    kind: Annotated[str, typer.Option(help="template (answers in one exact form) or persona (a voice).")] = "template",
    as_json: AsJson = False,
) -> None:
    """Make a project folder with a fledge.yaml and a few rows to replace by your own.

    Example: fledge new my-model --kind template
    """
    from fledge.cli.output import emit, say
    from fledge.recipes.start import start

    files = start(folder, kind)
    if as_json:
        emit({"project": str(folder), "files": files})
        return
    say(f"{folder}: {', '.join(files)}")
    rows = next(file for file in files if Path(file).stem == "train")
    quoted = shlex.quote(str(folder))
    say(f"Put your own rows into {folder / rows}, then: fledge data show {rows} -C {quoted}")
    say(f"Then: fledge train -C {quoted}   and: fledge chat latest -C {quoted}")
