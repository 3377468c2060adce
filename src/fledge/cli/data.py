"""fledge data: look at rows as the model will see them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fledge.cli import check, synth
from fledge.cli.options import HERE, AsJson, ProjectDir

if TYPE_CHECKING:
    from fledge.config import Config
    from fledge.recipes.show import Shown

app = typer.Typer(help="Data before it is learnt: checked, shown, converted, grown.", no_args_is_help=True)
app.command()(check.check)
app.command()(synth.synth)


@app.command()
def show(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file or folder of rows or documents.")],
    num_rows: Annotated[int, typer.Option("-n", min=1, help="How many rows.")] = 3,
    project: ProjectDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Show rows exactly as the model will see them; what is taught is coloured (in JSON: spans).

    Example: fledge data show data/train.jsonl -n 3
    """
    from fledge.cli.output import emit

    rows = _shown(path, project, num_rows)
    if as_json:
        emit({"rows": [_as_json(row) for row in rows]})
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for row in rows:
        console.print(Text(f"{row.origin}  ({row.taught_tokens} of {row.tokens} tokens are taught)", style="bold"))
        text = Text(row.rendered.text, style="dim")
        for start, end in row.rendered.taught:
            text.stylize("not dim bold green underline", start, end)
        for start, end in row.like_control:
            text.stylize("not dim bold red reverse", start, end)
        console.print(text)
        for start, end in row.like_control:
            console.print(
                Text(f"stays text, as no control token of the row: {row.rendered.text[start:end]}", style="red")
            )
        console.print()
    taught = Text("taught", style="bold green underline")
    console.print(
        taught, Text("| not taught: only read |", style="dim"), Text("text like a control token", style="red")
    )


Out = Annotated[Path, typer.Option("-o", "--out", metavar="OUT.jsonl", help="The file to write.")]
Force = Annotated[bool, typer.Option("--force", help="Replace OUT where it exists.")]


@app.command()
def convert(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH", help="Files or folders of rows or documents.")],
    out: Out,
    origin: Annotated[bool, typer.Option("--origin", help="Keep in each row where it came from.")] = False,
    questions: Annotated[
        bool, typer.Option("--questions", help="Of documents: the questions that they ask and answer themselves.")
    ] = False,
    force: Force = False,
    form: Annotated[
        str, typer.Option("--format", metavar="FORM", help="How rows are written, where the guess is wrong.")
    ] = "auto",
    project: ProjectDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Write rows of any form as one JSONL file in fledge's own columns: messages, preference, judged, problem or text.

    With --questions, what documents ask and answer themselves becomes rows, each with its source and passage.

    Example: fledge data convert chats.csv -o data/train.jsonl
    """
    from fledge.cli.output import Bar, emit, say
    from fledge.recipes.convert import convert as write
    from fledge.recipes.convert import convert_questions
    from fledge.recipes.prepare import inside

    config = _config(project, form)
    given = [inside(project, path) for path in paths]
    with Bar("writing") as bar:
        if questions:
            done = convert_questions(given, out, config, force=force, step=bar)
        else:
            done = write(given, out, config, force=force, origin=origin, step=bar)
    for note in done.notes:
        say(note)
    if as_json:
        emit({"rows": done.rows, "format": done.format, "path": str(done.path), "notes": done.notes})
    else:
        say(f"{done.path}: {done.rows:,} rows written as {done.format}.")


@app.command()
def split(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file or folder of rows.")],
    share: Annotated[float, typer.Option("--eval", metavar="SHARE", help="How much to hold out.")] = 0.1,
    by: Annotated[
        str | None, typer.Option("--by", metavar="KEY", help="Rows with the same value in this column stay together.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="DIR", help="Where to write; none: beside PATH.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed holds out other rows.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the two files where they exist.")] = False,
    project: ProjectDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Part rows into NAME.train.jsonl and NAME.eval.jsonl; what asks (nearly) the same stays on one side.

    Example: fledge data split data/all.jsonl --eval 0.1 --by customer
    """
    from fledge.cli.output import Bars, emit, say
    from fledge.recipes.prepare import inside
    from fledge.recipes.split import part

    with Bars() as bars:
        done = part(
            inside(project, path), _config(project),
            share=share, by=by, folder=folder, seed=seed, force=force, progress=bars,
        )  # fmt: skip
    how = done.how
    if as_json:
        emit(
            {
                "train": str(done.train), "eval": str(done.held_out), "rows_train": done.rows_train,
                "rows_eval": done.rows_held_out, "leaks": how.leaks, "tied": how.tied, "largest_group": how.largest,
            }
        )  # fmt: skip
        return
    say(f"{done.train}: {done.rows_train:,} rows to learn from")
    say(f"{done.held_out}: {done.rows_held_out:,} rows to measure with")
    say(f"{how.words}; questions held out that are learnt too: {how.leaks}")


def _config(project: Path, form: str = "auto") -> Config:
    """Return the project's knobs, or their defaults where there is no project: looking at a file needs none."""
    from fledge.config import FILE_NAME, Config
    from fledge.config_file import load_config

    own = (project / FILE_NAME).is_file()
    if form == "auto":
        return load_config(project) if own else Config()
    return load_config(project, [f"data.format={form}"]) if own else Config.model_validate({"data": {"format": form}})


def _shown(path: Path, project: Path, count: int) -> list[Shown]:
    from fledge.data.template import ChatTemplate
    from fledge.model.extended import extend
    from fledge.model.pull import resolve
    from fledge.model.tokenizer import load_tokenizer
    from fledge.model.weights import open_weights
    from fledge.recipes.prepare import inside
    from fledge.recipes.show import show

    config = _config(project)
    # Without a project the starter model's template is as good as any.
    weights = open_weights(resolve(config.model, base_dir=project))
    template = ChatTemplate(load_tokenizer(extend(weights, config.data.add_tokens)))
    return show(inside(project, path), config, template, count=count)


def _as_json(row: Shown) -> dict[str, Any]:
    return {
        "origin": row.origin,
        "text": row.rendered.text,
        "spans": _spans(len(row.rendered.text), row.rendered.taught),
        "tokens": row.tokens,
        "taught_tokens": row.taught_tokens,
        "control": [{"start": start, "end": end} for start, end in row.rendered.control],
        "like_control": [{"start": start, "end": end} for start, end in row.like_control],
    }


def _spans(length: int, taught: tuple[tuple[int, int], ...]) -> list[dict[str, Any]]:
    """Return spans that cover 0..length, each taught or not."""
    edges = sorted({0, length, *(edge for span in taught for edge in span)})
    return [{"start": a, "end": b, "taught": (a, b) in taught} for a, b in zip(edges, edges[1:], strict=False)]
