"""fledge eval: held-out rows, one file or two against each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fledge.cli.options import HERE, AsJson, ProjectDir, Target


def evaluate(
    target: Target,
    data: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Rows to ask; default: the project's held-out rows.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="TARGET", help="Compare with this one on the same rows.")
    ] = None,
    project: ProjectDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Ask held-out rows and count: right answers, template, stops by itself. Texts are read: perplexity.

    With --against: a paired verdict.

    Example: fledge eval latest --against smollm2-135m
    """
    from fledge.cli.output import Bars, emit, say
    from fledge.config_file import load_config
    from fledge.model.process import prepare_process

    prepare_process()
    from fledge.project import find_run
    from fledge.recipes.assess import assess
    from fledge.recipes.by_task import losses_of
    from fledge.recipes.measure import rows_to_ask
    from fledge.recipes.report import keep_verdict
    from fledge.recipes.target import is_run, serve_target

    config = load_config(project)
    rows = rows_to_ask(project, config, data)
    served = serve_target(project, target, say=say)
    sides = [served] if against is None else [served, serve_target(project, against, say=say)]
    run = find_run(project, target) if is_run(project, target) else None
    losses = losses_of(run) if run and data is None else {}
    with Bars() as bars:
        result = assess(sides, rows, config, project=project, losses=losses, progress=bars)
    if run:
        keep_verdict(run, result)
    emit(result) if as_json else _tell(result)


def _tell(result: dict[str, Any]) -> None:
    from fledge.cli.output import percent, say

    for side in [result, *([result["against"]] if result["against"] else [])] if result["interval"] else []:
        low, high = side["interval"]
        say(
            f"{side['target']:28} right {percent(side['accuracy'])} ({percent(low)} to {percent(high)})  "
            f"template {percent(side['template_adherence'])}  stopped {percent(side['stopped'])}  "
            f"{side['tokens_per_s']:.0f} tokens/s"
        )
    if len(result["tasks"]) > 1:
        for task in result["tasks"]:
            low, high = task["interval"]
            before = f", {percent(task['accuracy_before'])} before" if "accuracy_before" in task else ""
            say(
                f"  {task['task']:26} right {percent(task['accuracy'])} ({percent(low)} to {percent(high)}{before})  "
                f"template {percent(task['template_adherence'])}  stopped {percent(task['stopped'])}  "
                f"{task['rows']} rows"
            )
    if (texts := result["texts"]) is not None:
        for side in [texts | {"target": result["target"]}, *([texts["against"]] if texts["against"] else [])]:
            say(f"{side['target']:28} perplexity {side['perplexity']:.2f}")
    if result["against"]:
        say(f"verdict: {result['verdict']}. {result['why']}")
        if texts is not None and result["interval"]:
            say(f"texts: {texts['verdict']}. {texts['why']}")
    say(f"every {'answer' if result['interval'] else 'passage'}: {result['rows_file']}")
