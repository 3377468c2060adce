"""fledge advise: what to know before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from fledge.cli.options import HERE, AsJson, ProjectDir

app = typer.Typer(help="What fits on a machine, and what it takes, before anything is trained.", no_args_is_help=True)
Cache = Annotated[str, typer.Option("--cache", help="Type of keys and values: f16, q8_0 or q4_0.")]
BAR, WIDTH = 40, 110
HEADS = ("model", "method", "file", "size", "train", "time", "serve", "tokens/s", "machine", "GPU", "fits")


@app.command()
def fit(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL", help="Catalog names, folders or .gguf files; all by default.")
    ] = None,
    ram: Annotated[
        str | None, typer.Option("--ram", help="Memory of the machine, such as 8GB; by default this one's.")
    ] = None,
    goal: Annotated[str, typer.Option("--goal", help="What the model is for, in your words; one is picked.")] = "",
    method: Annotated[list[str] | None, typer.Option("--method", help="lora, qlora or full; all by default.")] = None,
    quant: Annotated[
        list[str] | None, typer.Option("--quant", help="Type of the file that is served: q8_0, q4_k_m, ...")
    ] = None,
    rows: Annotated[
        int | None, typer.Option("--rows", min=1, help="Rows to learn from; by default the project's own, or 300.")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option("--tokens", min=8, help="Tokens of a row, half of them taught; or 256.")
    ] = None,
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
    from fledge.model.process import prepare_process

    prepare_process()
    from fledge.advise.serving import CACHE_TYPES
    from fledge.recipes.fit import METHODS, TYPES, Wish
    from fledge.recipes.fit import fit as work_out
    from fledge.release.quantize import file_type

    methods, types = tuple(method or METHODS), tuple(map(file_type, quant or TYPES))
    for one in methods:
        _require("--method", one, METHODS)
    _require("--cache", cache, tuple(CACHE_TYPES))
    # Half a minute each, in which nobody wants to wait for a dozen.
    measure = bool(models) if probe is None else probe
    wish = Wish(_memory(ram), tuple(models or ()), methods, types, rows, tokens, context, cache, measure, goal)
    with Bar("working out") as bar:
        found = work_out(project, wish, say=say, progress=lambda done, total, note: bar(done, total, note=note))
    if as_json:
        emit(found)
    else:
        _show(found)


def _memory(told: str | None) -> int | None:
    """Return the bytes that --ram says. Raises ConfigError for what is no size, or nothing."""
    from fledge.config import size_bytes
    from fledge.errors import ConfigError

    try:
        found = None if told is None else size_bytes(told)
    except ValueError as error:
        raise ConfigError("config.bad_value", f"--ram {told}: {error}.", where="command line") from None
    if found == 0:
        raise ConfigError(
            "config.bad_value", "--ram is nothing.", where="command line", remedy="For example: --ram 8GB"
        )
    return found


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
            f"{option['tokens_per_s']:.3g}" if option["tokens_per_s"] else "",
            f"{option['least_machine_bytes'] / 1e9:.0f}" if option["least_machine_bytes"] else "",
            f"{option['gpu_gib']}" if option["gpu_gib"] else "",
            "yes" if option["fits"] else "no",
            style=None if option["fits"] else "dim",
        )
    # A name that is cut is of no use; a narrow terminal wraps.
    Console(width=max(Console().width, WIDTH)).print(table)
    print("\nSizes in GB: the file, memory while it trains and while it is served, the smallest machine for both.")
    print("GPU: the smallest card that could train it, reckoned and not measured; weights in 16 bits, or as the file.")
    print(f"Learnt: {found['learnt']}. Served: room for {found['context']:,} tokens.")
    print(f"Of {asked / 1e9:.1f} GB a program may take {usable / 1e9:.1f} GB.")
    if all(option["train_s"] is None for option in found["options"]):
        print("How long it takes and how fast it answers is told of models that are named.")
    if chosen := found["pick"]:
        what = f"{chosen['model']}, {chosen['method']}, {chosen['quant']}" if chosen["model"] else "none"
        print(f"For this goal: {what}: {chosen['why']}.")
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


VERDICTS = {"yes": "yes", "if": "yes, if", "ask": "ask first", "no": "no"}
MEANT = {
    "private": "for yourself, on your own machines",
    "internal": "inside the organisation you work for",
    "publish": "give the model away",
    "sell": "sell it, or what it answers",
}


@app.command()
def licence(
    base: Annotated[str | None, typer.Option("--base", help="A model; by default the project's.")] = None,
    data: Annotated[
        list[Path] | None, typer.Option("--data", help="Files or folders to learn from; by default the project's.")
    ] = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option("--teacher", help="Who wrote answers: openai, claude, local:TARGET, frames, ..."),
    ] = None,
    own: Annotated[bool, typer.Option("--own", help="Data beside which no licence stands are your own.")] = False,
    project: ProjectDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Tell what may be done with the model, by the licences of its base, its data and its teachers.

    For orientation: it sums up what licences say, and no lawyer wrote it.

    Example: fledge advise licence --teacher openai
    """
    from fledge.cli.output import emit
    from fledge.errors import ConfigError
    from fledge.recipes.licence import Asked, look

    found = look(project, Asked(base, tuple(data or ()), tuple(teacher or ()), own))
    if not found["parts"]:
        raise ConfigError(
            "config.bad_value", "there is neither a project here nor a part that is named.", where="command line",
            remedy="For example: fledge advise licence --base llama-3.2-1b --data rows.jsonl",
        )  # fmt: skip
    if as_json:
        emit(found)
        return
    for part in found["parts"]:
        print(f"{part['kind']:<8} {part['what']}: {part['licence']}")
    print()
    for use, told in found["uses"].items():
        print(f"{MEANT[use]:<38} {VERDICTS[told['verdict']]}{': ' if told['why'] else ''}{told['why']}")
    if any(part["kind"] == "data" and part["licence"] == "unknown" for part in found["parts"]):
        print("\nNo licence stands beside the data. If they are your own, say --own.")
    print("\nFor orientation: no lawyer wrote this.")


@app.command()
def model(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL", help="Catalog names, hub ids, folders or .gguf files; the catalog by default."),
    ] = None,
    goal: Annotated[str, typer.Option("--goal", help="What the model is for, in your words.")] = "",
    project: ProjectDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Tell what models are, by name and configuration, and which suit the goal and the rows of the project.

    Nothing is fetched.

    Example: fledge advise model smollm2-135m Qwen/Qwen3-0.6B-Base --goal "answer questions in German"
    """
    from fledge.cli.output import emit
    from fledge.recipes.which import which

    found = which(project, names or (), goal)
    if as_json:
        emit(found)
        return
    needs = found["needs"]
    asked = [f"in {', '.join(needs['languages'])}"] if needs["languages"] else []
    asked += ["with code"] if needs["code"] else []
    asked += [f"{needs['rows']:,} rows of {needs['form']}"] if needs["rows"] else []
    if asked:
        print(f"Needed: {'; '.join(asked)}.")
    print(f"Take: {found['variant']}.\n")
    for one in found["models"]:
        size = f"{one['params'] / 1e9:.2g}B" if one["params"] else "size not told"
        languages = ", ".join(one["languages"]).replace("*", "many languages") or "languages not told"
        stored = f", stored as {one['stored']}" if one["stored"] else ""
        print(f"{one['name']}: {one['variant']}, {size}, {one['licence']}, {languages}{stored}")
        for why in one["against"]:
            print(f"    - {why}")


@app.command()
def trial(
    data: Annotated[
        Path | None, typer.Option("--data", help="Rows to learn from and to ask; by default the project's.")
    ] = None,
    knowledge: Annotated[
        Path | None,
        typer.Option("--knowledge", help="Documents to retrieve from; by default knowledge/ in the project."),
    ] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="The system prompt of what is not trained.")] = None,
    ask: Annotated[int, typer.Option("--ask", min=10, help="Rows that are asked at most.")] = 50,
    requests: Annotated[int, typer.Option("--requests", min=1, help="Questions a month.")] = 10_000,
    price: Annotated[float, typer.Option("--price", min=0, help="What a machine like this costs an hour.")] = 0.04,
    arms: Annotated[
        str, typer.Option("--arms", help="What is tried, with commas between.")
    ] = "prompt,few_shot,rag,tuned,tuned_rag",
    project: ProjectDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Tell whether to train at all: the same rows through a prompt, examples, retrieval, a trained model, and both.

    It takes one training run and asks each row five times.

    Example: fledge advise trial --data rows.jsonl
    """
    from fledge.cli.output import Bar, emit, say
    from fledge.cli.train import with_progress
    from fledge.config import FILE_NAME, Config, DataConfig
    from fledge.config_file import load_config
    from fledge.model.process import prepare_process

    prepare_process()
    from fledge.advise.trial import ARMS
    from fledge.recipes.trial import Order, Progress
    from fledge.recipes.trial import trial as try_out
    from fledge.recipes.tune import tune

    config = load_config(project) if (project / FILE_NAME).is_file() else Config()
    if data is not None:
        own = config.data.model_dump() | {"train": str(data.absolute()), "eval": "auto"}
        config = config.model_copy(update={"data": DataConfig(**own)})
    wanted = tuple(dict.fromkeys(arm.strip() for arm in arms.split(",")))
    for arm in wanted:
        _require("--arms", arm, ARMS)
    order = Order(knowledge, prompt, requests, price, ask, wanted)
    with Bar("asking") as bar:
        progress = Progress(
            say,
            lambda arm, done, total: bar(done, total, note=arm),
            lambda folder, own: with_progress(lambda listener: tune(folder, own, listener=listener), kept=False),
        )
        found = try_out(project, config, order, progress=progress)
    if as_json:
        emit(found)
    else:
        _show_trial(found)


def _show_trial(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("arm", "right", "95 %", "seconds", "tokens", "a month", box=None, pad_edge=False)
    for arm in found["arms"]:
        low, high = arm["interval"]
        table.add_row(
            arm["arm"],
            f"{arm['accuracy']:.0%}",
            f"{low:.0%} to {high:.0%}",
            f"{arm['seconds']:.2f}",
            f"{arm['tokens']:.0f}",
            f"{arm['cost']:.2f}",
        )
    Console(width=max(Console().width, WIDTH)).print(table)
    print(f"\n{found['rows']} rows asked, {found['learnt']} learnt from. Seconds and tokens are those of one answer.")
    print(f"A month: {found['requests']:,} questions on a machine like this one at {found['hour_price']} an hour.")
    print(f"\n{found['advice']} {found['why']}")
