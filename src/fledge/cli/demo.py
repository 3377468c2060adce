"""fledge demo: the main job, end to end, on the shipped example."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fledge.cli.options import AsJson


def demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the demo's project is put.")] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another adapter, the same verdict.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Teach a 135M model 44 facts about Python's standard library and hand it over as one file. About three minutes.

    Example: fledge demo
    """
    from fledge.cli.output import Bar, emit, say
    from fledge.cli.train import with_progress
    from fledge.model.process import prepare_process

    prepare_process()
    from fledge.recipes.demo import Stage, run_demo

    def ask(label: str, total: int, work: Any) -> Any:
        with Bar(label, total) as bar:
            return work(bar)

    result = run_demo(folder, seed=seed, stage=Stage(say=say, train=with_progress, ask=ask))
    if as_json:
        emit(result)
    else:
        print("demo: ok")
