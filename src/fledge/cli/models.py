"""fledge models: the catalog, and fetching from it."""

from __future__ import annotations

from typing import Any

import typer

from fledge.cli.options import AsJson, ModelName

app = typer.Typer(help="The base models that fledge knows by name.", no_args_is_help=True)


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the models that fledge knows by name.

    Example: fledge models list
    """
    from fledge.cli.output import emit, megabytes
    from fledge.model.pull import listing

    models = listing()
    if as_json:
        emit({"models": models})
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "parameters", "file", "context", "licence", "template", "here", box=None, pad_edge=False)
    for model in models:
        here = "yes" if model["cached"] else ""
        size = megabytes(model["bytes"])
        params = f"{model['params'] / 1e6:,.0f}M"
        table.add_row(model["name"], params, size, f"{model['context']:,}", model["licence"], model["template"], here)
    Console().print(table)


@app.command()
def info(name: ModelName, as_json: AsJson = False) -> None:
    """Show one model: size, context, licence and where it can be fetched from.

    Example: fledge models info smollm2-135m
    """
    from fledge.cli.output import emit
    from fledge.model import catalog
    from fledge.model.pull import listing

    known = catalog.get(name).name
    model: dict[str, Any] = next(entry for entry in listing() if entry["name"] == known)
    if as_json:
        emit(model)
        return
    for key, value in model.items():
        print(f"{key:9} {', '.join(map(str, value)) if isinstance(value, list) else value}")


@app.command()
def pull(name: ModelName, as_json: AsJson = False) -> None:
    """Fetch a model into the cache, checked by sha256. What is there already is not fetched again.

    Example: fledge models pull smollm2-135m
    """
    from dataclasses import asdict

    from fledge.cli.output import Bar, emit, megabytes
    from fledge.model.pull import pull as fetch

    with Bar(f"pulling {name}") as bar:
        pulled = fetch(name, progress=bar)
    if as_json:
        emit(asdict(pulled))
    else:
        print(f"{pulled.path}  {megabytes(pulled.bytes)}  {pulled.licence}  from {pulled.source}")
