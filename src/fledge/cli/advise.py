"""fledge advise: what to know before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from fledge.cli.options import HERE, AsJson, ProjectDir

app = typer.Typer(help="What fits on a machine, and what it takes, before anything is trained.", no_args_is_help=True)
Cache = Annotated[str, typer.Option("--cache", help="Type of keys and values: f16, q8_0 or q4_0.")]
BAR = 40
HEADS = ("model", "method", "file", "size", "train", "time", "serve", "machine", "fits")


@app.command()
def fit(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL", help="Catalog names, folders or .gguf files; all by default.")
    ] = None,
    ram: Annotated[
        str | None, typer.Option("--ram", help="Memory of the machine, such as 8GB; by default this one's.")
    ] = None,
    method: Annotated[list[str] | None, typer.Option("--method", help="lora, qlora or full; all by default.")] = None,
    quant: Annotated[
        list[str] | None, typer.Option("--quant", help="Type of the file that is served: q8_0, q4_k_m, ...")
    ] = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Rows to learn from.")] = 300,
    tokens: Annotated[int, typer.Option("--tokens", min=8, help="Tokens of a row, half of them taught.")] = 256,
    context: Annotated[
        int, typer.Option("--context", min=256, help="Room of a conversation when it is served.")
    ] = 2048,
    cache: Cache = "f16",
    probe: Annotated[
        bool | None,
        typer.Option("--probe/--no-probe", help="Time some layers of each here; by default where models are named."),
    ] = None,
    project: ProjectDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Tell which models fit by which method: memory, file, and how long it takes on this machine.

    Nothing is fetched: a model's shape is enough. Models that are named are timed, half a minute each.

    Example: fledge advise fit --ram 8GB, then: fledge advise fit smollm2-135m --ram 8GB
    """
    from fledge.cli.output import Bar, emit, say
    from fledge.config import size_bytes
    from fledge.errors import ConfigError
    from fledge.model.process import prepare_process

    prepare_process()
    from fledge.advise.serving import CACHE_TYPES
    from fledge.recipes.fit import METHODS, TYPES, Wish
    from fledge.recipes.fit import fit as work_out
    from fledge.release.quantize import file_type

    try:
        ram_bytes = None if ram is None else size_bytes(ram)
    except ValueError as error:
        raise ConfigError("config.bad_value", f"--ram {ram}: {error}.", where="command line") from None
    if ram_bytes == 0:
        raise ConfigError(
            "config.bad_value", "--ram is nothing.", where="command line", remedy="For example: --ram 8GB"
        )
    methods, types = tuple(method or METHODS), tuple(map(file_type, quant or TYPES))
    for one in methods:
        _require("--method", one, METHODS)
    _require("--cache", cache, tuple(CACHE_TYPES))
    # Half a minute each, in which nobody wants to wait for a dozen.
    measure = bool(models) if probe is None else probe
    wish = Wish(ram_bytes, tuple(models or ()), methods, types, rows, tokens, context, cache, measure)
    with Bar("working out") as bar:
        found = work_out(project, wish, say=say, progress=lambda done, total, note: bar(done, total, note=note))
    if as_json:
        emit(found)
    else:
        _show(found)


def _require(what: str, given: str, known: Sequence[str]) -> None:
    from fledge.errors import ConfigError

    if given not in known:
        remedy = f"There are: {', '.join(known)}."
        raise ConfigError("config.bad_value", f"{what} {given} is not known.", where="command line", remedy=remedy)


def _show(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    usable, asked = found["machine"]["usable_ram_bytes"], found["machine"]["asked_ram_bytes"]
    table = Table(*HEADS, box=None, pad_edge=False)
    for option in found["options"]:
        table.add_row(
            option["model"],
            option["method"],
            option["quant"],
            f"{option['file_bytes'] / 1e9:.2f}",
            f"{option['train_ram_bytes'] / 1e9:.2f}",
            _time(option["train_s"]),
            f"{option['serve_ram_bytes'] / 1e9:.2f}",
            f"{option['least_machine_bytes'] / 1e9:.0f}" if option["least_machine_bytes"] else "",
            "yes" if option["fits"] else "no",
            style=None if option["fits"] else "dim",
        )
    Console().print(table)
    rows = f"{found['rows']} rows of {found['tokens']} tokens that share nothing"
    print("\nSizes in GB: the file, memory while it trains and while it is served, the smallest machine for both.")
    print(f"Learnt: {rows}. Served: room for {found['context']:,} tokens.")
    print(f"Of {asked / 1e9:.1f} GB a program may take {usable / 1e9:.1f} GB.")
    if all(option["train_s"] is None for option in found["options"]):
        print("How long it takes is told of models that are named.")
    for told in dict.fromkeys(
        f"{one['model']} {one['method']}: {one['why']}" for one in found["options"] if one["why"]
    ):
        print(told)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{max(1, round(seconds / 60))} min"


@app.command()
def kv(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A catalog name, a folder or a .gguf file.")],
    cache: Cache = "f16",
    project: ProjectDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Explain how the memory of a conversation grows with its length.

    Example: fledge advise kv llama-3.2-1b
    """
    from fledge.advise.serving import CACHE_TYPES
    from fledge.cli.output import emit, megabytes
    from fledge.recipes.fit import growth

    _require("--cache", cache, tuple(CACHE_TYPES))
    found = growth(project, model, cache)
    if as_json:
        emit(found)
        return
    print(found["words"] + "\n")
    most = max(point["bytes"] for point in found["points"])
    for point in found["points"]:
        bar = "\N{FULL BLOCK}" * max(1, round(BAR * point["bytes"] / most))
        print(f"{point['tokens']:>9,} tokens  {megabytes(point['bytes']):>12}  {bar}")
