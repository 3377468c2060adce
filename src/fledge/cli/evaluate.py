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
    """Ask held-out rows and count: right answers, template, stops by itself. With --against: a paired verdict.

    Example: fledge eval latest --against smollm2-135m
    """
    from fledge.cli.output import Bar, emit, say
    from fledge.config import load_config
    from fledge.model.process import prepare_process

    prepare_process()
    from fledge.project import find_run
    from fledge.recipes import measure
    from fledge.recipes.by_task import losses_of
    from fledge.recipes.report import keep_verdict
    from fledge.recipes.target import is_run, serve_target

    config = load_config(project)
    rows = measure.rows_to_ask(project, config, data)
    served = serve_target(project, target, say=say)
    sides = [served] if against is None else [served, serve_target(project, against, say=say)]
    evaluations = []
    for side in sides:
        with Bar(f"asking {side.label}", len(rows)) as bar:
            evaluations.append(measure.measure(side, rows, config, on_done=bar))
    run = find_run(project, target) if is_run(project, target) else None
    losses = losses_of(run) if run and data is None else {}
    result = measure.report(sides, evaluations, project=project, losses=losses)
    if run:
        keep_verdict(run, result)
    emit(result) if as_json else _tell(result)


def _tell(result: dict[str, Any]) -> None:
    from fledge.cli.output import percent, say

    for side in [result, *([result["against"]] if result["against"] else [])]:
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
    if result["against"]:
        say(f"verdict: {result['verdict']}. {result['why']}")
    say(f"every answer: {result['rows_file']}")
