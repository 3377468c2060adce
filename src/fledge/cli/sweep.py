"""fledge sweep: a few knobs, tried in turn."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fledge.cli.options import HERE, AsJson, ProjectDir

SHOWN_TRIALS = 20


def sweep(
    knobs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=LOW..HIGH|A,B|VALUE",
            help="What to try: a range or a list; knobs with one value are set for all trials.",
            show_default=False,
        ),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="How many trials; default: 20.", show_default=False)
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.1, metavar="M", help="Begin no trial that would not end in time.")
    ] = None,
    metric: Annotated[
        str, typer.Option(metavar="NAME", help="eval_loss; score: right answers; of preferences also accuracy.")
    ] = "eval_loss",
    keep_all: Annotated[
        bool, typer.Option("--keep-all", help="Keep every trial's adapter, not the best alone.")
    ] = False,
    resume: Annotated[
        str | None, typer.Option(metavar="SWEEP", help="Go on with a sweep: 3, latest; --trials adds to it.")
    ] = None,
    project: ProjectDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Try values of a few knobs and keep the best. Ctrl-C at any time; --resume goes on in the middle of a trial.

    Example: fledge sweep train.lr=1e-4..1e-2 train.rank=8,16,32 --trials 20 -C my-model
    """
    from fledge.cli.output import Bar, emit, say
    from fledge.errors import ConfigError
    from fledge.model.process import prepare_process

    if resume is not None and (knobs or keep_all or metric != "eval_loss"):
        raise ConfigError(
            "config.bad_value",
            "a sweep goes on with the knobs and the metric it was begun with.",
            where="command line",
            remedy="Leave them out, or start a new sweep with them.",
        )
    prepare_process()
    from fledge.recipes import sweep as recipe

    wish = recipe.Wish(knobs or (), metric, trials, minutes, keep_all)
    with Bar("sweep") as bar:
        stage = recipe.Stage(say=say, progress=lambda done, total, note: bar(round(done, 2), total, note=note))
        try:
            if resume is None:
                result = recipe.begin(project, wish, stage)
            else:
                result = recipe.resume(project, resume, wish, stage)
        except KeyboardInterrupt:
            say("stopped. Go on with: fledge sweep --resume latest (and -C DIR, if you gave one)")
            raise
    emit(result) if as_json else _tell(result)


def _tell(result: dict[str, Any]) -> None:
    from rich.table import Column, Table

    from fledge.cli.output import console, duration, megabytes, say
    from fledge.recipes.space import DONE, written
    from fledge.recipes.sweep_page import how_it_ended, ranked

    names = list(dict.fromkeys(name for trial in result["trials"] for name in trial["knobs"]))
    # Most ends are alike; the column is for those that are not.
    heads = ("trial", *(name.rpartition(".")[2] for name in names), result["metric"], "steps", "time", "")
    table = Table(*(Column(head, no_wrap=True) for head in heads[:-1]), heads[-1], box=None, header_style="bold")
    shown = ranked(result)[:SHOWN_TRIALS]
    for trial in shown:
        table.add_row(
            str(trial["trial"]),
            *(written(trial["knobs"][name]) if name in trial["knobs"] else "" for name in names),
            "" if trial["value"] is None else f"{trial['value']:.4f}",
            str(trial["steps"] or ""),
            "" if trial["seconds"] is None else duration(trial["seconds"]),
            "" if trial["state"] == DONE and trial["same_as"] is None else how_it_ended(trial),
        )
    console.print(table)
    if len(shown) < len(result["trials"]):
        say(f"... and {len(result['trials']) - len(shown)} more")
    say(f"time     {duration(result['seconds'])}, {megabytes(result['bytes'])} of disk")
    say(f"picture  {result['page']}")
    best, usual = result["best"], result["auto"]
    if best is None:
        say("no trial came to its end")
        return
    if usual is not None:
        same = usual["trial"] == best["trial"]
        say("auto     " + ("is the best of them" if same else f"{usual['value']:.4f}, the best {best['value']:.4f}"))
    say(f"best     {result['command']}")
    if best["adapter"] or best["model"]:
        say(f"next     fledge export {best['run']}   or the line above, for a run of its own")
