"""fledge train: rows to adapter."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fledge.cli.options import HERE, AsJson, Knobs, ProjectDir

# What the bar tells beside the loss, where the objective has it.
SHOWN = ("accuracy", "reward", "length")


def train(
    knobs: Knobs = None,
    project: ProjectDir = HERE,
    resume: Annotated[str | None, typer.Option(metavar="RUN", help="Finish an interrupted run: 7, latest.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, forecast time and memory, stop.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train on the project's rows. Ctrl-C at any time; --resume goes on as if nothing had happened.

    Example: fledge train -C my-model train.epochs=4 train.seed=1
    """
    from fledge.cli.output import emit, say
    from fledge.errors import ConfigError
    from fledge.model.process import prepare_process

    prepare_process()
    from fledge.config_file import load_config
    from fledge.project import find_run
    from fledge.recipes import forecast, tune

    if resume is not None:
        if knobs or dry_run:
            raise ConfigError(
                "config.bad_value",
                "a run is resumed with the knobs it was begun with.",
                where="command line",
                remedy="Leave them out, or start a new run with them.",
            )
        summary = with_progress(lambda listener: tune.resume(project, find_run(project, resume), listener=listener))
    elif dry_run:
        told = forecast.forecast(project, load_config(project, knobs or ()), say=say)
        emit(told) if as_json else _tell_forecast(told)
        if not all(check["ok"] for check in told["checks"]):
            raise typer.Exit(2)
        return
    else:
        config = load_config(project, knobs or ())
        summary = with_progress(lambda listener: tune.tune(project, config, listener=listener))
    emit(summary) if as_json else _tell(summary)


def with_progress(work: Any, *, kept: bool = True) -> dict[str, Any]:
    """Return work(listener) while a bar shows its steps, and say how to go on where it is interrupted.

    kept: whether what is there by then outlives the command.
    """
    from fledge.cli.output import Bar, say
    from fledge.recipes.tune import Listener

    with Bar("training") as bar:
        held_out = ""

        def on_step(step: Any) -> None:
            rate = step.tokens_effective / step.seconds
            told = "".join(f"  {name} {step.metrics[name]:.2f}" for name in SHOWN if name in step.metrics)
            bar(step.step, step.steps, note=f"loss {step.loss:.3f}{held_out}{told}  {rate:,.0f} tokens/s")

        def on_evaluation(evaluation: Any) -> bool:
            nonlocal held_out
            held_out = f"  held-out {evaluation.loss:.3f}"
            return False

        try:
            result: dict[str, Any] = work(Listener(say=say, step=on_step, evaluated=on_evaluation))
        except KeyboardInterrupt:
            if kept:
                say("stopped. Go on with: fledge train --resume latest (and -C DIR, if you gave one)")
            raise
    return result


def _tell(summary: dict[str, Any]) -> None:
    from fledge.cli.output import duration, megabytes, say

    before = summary.get("eval_before", {}).get("loss")
    rewarded = "reward_first" in summary
    held_out = "" if summary["eval_loss"] is None or rewarded else f", held-out {summary['eval_loss']:.3f}"
    held_out += f" ({before:.3f} before)" if held_out and before is not None else ""
    say(f"run      {summary['run']}")
    say(f"loss     {summary['loss_first']:.3f} -> {summary['loss_last']:.3f}{held_out}")
    metrics = summary.get("eval_metrics", {})
    if rewarded:
        told = f", held-out {metrics['reward']:.3f} ({summary['eval_before']['reward']:.3f} before)" if metrics else ""
        say(f"reward   {summary['reward_first']:.3f} -> {summary['reward_last']:.3f}{told}")
    if "accuracy" in metrics:
        say(f"         {metrics['accuracy']:.1%} of the held-out rows are told apart by their rewards")
    if "likelier" in metrics:
        was = summary["eval_before"]["likelier"]
        say(f"         the better answer is likelier in {metrics['likelier']:.1%} of them, {was:.1%} before")
    measured = [task for task in summary.get("tasks", ()) if task["eval_loss"] is not None]
    for task in measured if len(measured) > 1 else ():
        say(f"         held-out {task['eval_loss']:.3f} on {task['task']} ({task['eval_rows']} rows)")
    say(
        f"time     {duration(summary['seconds'])} for {summary['steps']} steps, "
        f"{summary['tokens_per_s']:,.0f} tokens/s (prefixes shared {summary['sharing']:.2f} times)"
    )
    say(f"memory   {megabytes(summary['peak_rss_bytes'])} at most")
    if summary["objective"] == "reward":
        say("next     fledge reward score latest FILE   or, as a reward: fledge reward try model:latest")
    elif summary.get("exportable", True):
        say("next     fledge export latest   then: fledge chat latest")
    else:
        opens = "PEFT opens the adapter" if summary["adapter"] else f"transformers opens {summary['model']}"
        say(f"next     {opens}; a GGUF file of this architecture cannot be written yet")


def _tell_forecast(found: dict[str, Any]) -> None:
    from fledge.cli.output import duration, megabytes, say

    for check in found["checks"]:
        say(f"{'ok' if check['ok'] else 'NO'}  {check['what']}: {check['found']}")
    told = found["forecast"]
    memory, disk = megabytes(told["ram_bytes"]), megabytes(told["disk_bytes"])
    say(f"it would take about {duration(told['seconds'])}, {memory} of memory, {disk} of disk")
