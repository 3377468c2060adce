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
    types = finished.config.release.quant if quant is None else [name.strip() for name in quant.split(",")]
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
    run: Run,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Where to.")],
    project: ProjectDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Write base and adapter as one Hugging Face folder (safetensors).

    Example: fledge merge latest -o merged/
    """
    from fledge.cli.output import emit, megabytes, say
    from fledge.model.process import prepare_process

    prepare_process()
    from fledge.project import find_run
    from fledge.recipes import ship

    written = ship.merge_folder(ship.open_run(project, find_run(project, run)), out)
    emit(written) if as_json else say(f"{written['path']}  {megabytes(written['bytes'])}")
