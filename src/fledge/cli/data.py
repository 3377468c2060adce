"""fledge data: look at rows as the model will see them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fledge.cli import check, synth
from fledge.cli.options import HERE, AsJson, ProjectDir

if TYPE_CHECKING:
    from fledge.config import Config

app = typer.Typer(help="Data before it is learnt: checked, shown, converted, grown.", no_args_is_help=True)
app.command()(check.check)
app.command()(synth.synth)


@app.command()
def show(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file of rows.")],
    num_rows: Annotated[int, typer.Option("-n", min=1, help="How many rows.")] = 3,
    project: ProjectDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Show rows exactly as the model will see them; what is taught is coloured (in JSON: spans).

    Example: fledge data show data/train.jsonl -n 3
    """
    from fledge.cli.output import emit

    rows = [row for row, _ in zip(_rendered(path, project), range(num_rows), strict=False)]
    if as_json:
        emit({"rows": rows})
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for row in rows:
        console.print(Text(row["origin"], style="bold"))
        text = Text(style="dim")
        for span in row["spans"]:
            piece = row["text"][span["start"] : span["end"]]
            text.append(piece, style="not dim bold green underline" if span["taught"] else "")
        console.print(text)
        console.print()
    console.print(Text("taught", style="bold green underline"), Text("| not taught: only read", style="dim"))


Out = Annotated[Path, typer.Option("-o", "--out", metavar="OUT.jsonl", help="The file to write.")]
Force = Annotated[bool, typer.Option("--force", help="Replace OUT where it exists.")]


@app.command()
def convert(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH", help="Files or folders of rows or documents.")],
    out: Out,
    origin: Annotated[bool, typer.Option("--origin", help="Keep in each row where it came from.")] = False,
    force: Force = False,
    form: Annotated[
        str, typer.Option("--format", metavar="FORM", help="How rows are written, where the guess is wrong.")
    ] = "auto",
    project: ProjectDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Write rows of any form as one JSONL file in fledge's own columns: messages, preference, judged, problem or text.

    Example: fledge data convert chats.csv -o data/train.jsonl
    """
    from fledge.cli.output import Bar, emit, say
    from fledge.recipes.convert import convert as write
    from fledge.recipes.prepare import inside

    config = _config(project, form)
    with Bar("writing") as bar:
        done = write([inside(project, path) for path in paths], out, config, force=force, origin=origin, step=bar)
    for note in done.notes:
        say(note)
    if as_json:
        emit({"rows": done.rows, "format": done.format, "path": str(done.path), "notes": done.notes})
    else:
        say(f"{done.path}: {done.rows:,} rows written as {done.format}.")


def _config(project: Path, form: str = "auto") -> Config:
    """Return the project's knobs, or their defaults where there is no project: looking at a file needs none."""
    from fledge.config import FILE_NAME, Config, load_config

    own = (project / FILE_NAME).is_file()
    if form == "auto":
        return load_config(project) if own else Config()
    return load_config(project, [f"data.format={form}"]) if own else Config.model_validate({"data": {"format": form}})


def _rendered(path: Path, project: Path) -> list[dict[str, Any]]:
    from fledge.data.template import ChatTemplate
    from fledge.model.pull import resolve
    from fledge.model.tokenizer import load_tokenizer
    from fledge.model.weights import open_weights
    from fledge.recipes.prepare import inside, read_conversations

    config = _config(project)
    # Without a project the starter model's template is as good as any.
    template = ChatTemplate(load_tokenizer(open_weights(resolve(config.model, base_dir=project))))
    conversations, _ = read_conversations([inside(project, path)], config)
    return [
        {"origin": conversation.origin, "text": rendered.text, "spans": _spans(len(rendered.text), rendered.taught)}
        for conversation in conversations
        for rendered in template.rendered(conversation, taught=config.train.taught)
    ]


def _spans(length: int, taught: tuple[tuple[int, int], ...]) -> list[dict[str, Any]]:
    """Return spans that cover 0..length, each taught or not."""
    edges = sorted({0, length, *(edge for span in taught for edge in span)})
    return [{"start": a, "end": b, "taught": (a, b) in taught} for a, b in zip(edges, edges[1:], strict=False)]
