"""fledge export and fledge merge: a run to files that others can run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fledge.cli.options import HERE, AsJson, ProjectDir, Run

Out = Annotated[Path | None, typer.Option("-o", "--out", metavar="DIR", help="Where to; default: the run's release/.")]


def export(
    run: Run,
    quant: Annotated[
        str | None, typer.Option(metavar="TYPES", help="f16,q8_0,q4_k_m,... Default: release.quant.")
    ] = None,
    adapter: Annotated[bool, typer.Option("--adapter", help="Also write the adapter as its own GGUF file.")] = False,
    out: Out = None,
    project: ProjectDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Merge and quantise a run into GGUF files; each is compared with the trained weights, or does not exist.

    Example: fledge export latest --quant q8_0,q4_k_m --adapter
    """
    from fledge.cli.output import emit, megabytes, say
    from fledge.model.process import prepare_process

    prepare_process()
    from fledge.project import find_run
    from fledge.recipes import ship

    finished = ship.open_run(project, find_run(project, run))
    types = finished.usual_types if quant is None else [name.strip() for name in quant.split(",")]
    with_adapter = adapter or (quant is None and finished.config.release.adapter)
    exported = ship.export(finished, types=types, with_adapter=with_adapter, out=out, say=say)
    if as_json:
        emit(exported)
        return
    for file in exported["files"]:
        told = file["parity"]
        say(
            f"{file['path']}  {megabytes(file['bytes'])}  {file['bits_per_weight']:.2f} bits/weight  "
            f"answers agree {told['top1_taught']:.4f} (all text {told['top1']:.4f})  KL {told['kl']:.2g}"
        )


def merge(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="A run: 7, latest or its folder; or several.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="DIR", help="Where to. Needed for one run.")
    ] = None,
    weights: Annotated[str | None, typer.Option(metavar="W,W", help="Of several runs. Default: equal shares.")] = None,
    how: Annotated[str, typer.Option(metavar="HOW", help="linear, ties or dare.")] = "linear",
    density: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="Share of the changes that ties and dare keep.")
    ] = 0.5,
    rank: Annotated[int | None, typer.Option(min=1, help="Of the adapter that several give. Default: all.")] = None,
    project: ProjectDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Write base and adapter as one Hugging Face folder; several runs are first put together as a run of its own.

    Example: fledge merge 3 7 --weights 0.6,0.4
    """
    from fledge.cli.output import Bar, emit, megabytes, say
    from fledge.errors import ConfigError
    from fledge.model.process import prepare_process

    prepare_process()
    from fledge.model.combine import Recipe, how_of
    from fledge.project import find_run
    from fledge.recipes import ship
    from fledge.recipes.combine import combine_runs, weights_of

    if len(runs) == 1 and out is None:
        raise ConfigError(
            "config.bad_value", "where to write is not said.", where="command line", remedy="For example: -o merged/"
        )
    found = [find_run(project, run) for run in runs]
    told = {}
    if len(found) > 1:
        recipe = Recipe(how_of(how), weights_of(weights), density, rank)
        with Bar("combining") as bar:
            told = combine_runs(project, found, recipe, say=say, step=bar)
        found = [find_run(project, told["run"])]
    if out is not None:
        told |= ship.merge_folder(ship.open_run(project, found[0]), out)
    if as_json:
        emit(told)
        return
    say(f"{told['path']}  {megabytes(told['bytes'])}")
    if len(runs) > 1:
        say(f"next     fledge export {told['run']}   then: fledge eval {told['run']}")
