"""fledge reward: rewards tried before anything is trained on them, and models that score answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fledge.cli.options import HERE, AsJson, ProjectDir, Run

if TYPE_CHECKING:
    from fledge.rewards.trial import Figures, Trial

app = typer.Typer(help="Rewards: what a reply is worth, for reinforcement learning.", no_args_is_help=True)
BINS = 10
SHOWN_ERRORS = 3


@app.command("try")
def try_(
    rewards: Annotated[
        list[str],
        typer.Argument(metavar="FILE", help="A Python file of rewards, or names such as number, length:20-200."),
    ],
    data: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Rows to try on; default: the project's data.train.")
    ] = None,
    samples: Annotated[
        int, typer.Option(min=4, metavar="N", help="Replies of the project's model to judge, four to a prompt.")
    ] = 32,
    no_samples: Annotated[bool, typer.Option("--no-samples", help="Judge rows alone; no model is asked.")] = False,
    weights: Annotated[
        str, typer.Option(metavar="W,W", help="How much each reward counts, in their order; default: 1 each.")
    ] = "",
    project: ProjectDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Try rewards on good answers, bad answers and samples. Exit code 2 where training on them would be refused.

    Example: fledge reward try number --no-samples -C my-model
    """
    from fledge.cli.output import Bars, emit, say
    from fledge.config import FILE_NAME, Config
    from fledge.config_file import load_config
    from fledge.recipes.reward import Options, try_on_project
    from fledge.recipes.reward import as_json as told

    own = (project / FILE_NAME).is_file()
    config = load_config(project) if own or data is None else Config()
    options = Options(data, 0 if no_samples else samples, _numbers(weights))
    with Bars() as bars:
        trial = try_on_project(rewards, config, options, project=project, say=say, progress=bars)
    if as_json:
        emit(told(trial))
    else:
        _draw(trial)
    if trial.verdict.refuses:
        raise typer.Exit(2)


@app.command()
def score(
    run: Run,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Rows with answers, or pairs of answers.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="Where to; default: in runs/answers/.")
    ] = None,
    project: ProjectDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Score answers with a run of objective: reward; of pairs, tell how often the better one gets more.

    Example: fledge reward score latest data/pairs.jsonl -C my-model
    """
    from fledge.cli.output import Bars, emit, percent, say
    from fledge.config import FILE_NAME, Config
    from fledge.config_file import load_config
    from fledge.model.process import prepare_process

    prepare_process()
    from fledge.project import find_run
    from fledge.recipes import judge as judging
    from fledge.recipes.measure import answers_file

    config = load_config(project) if (project / FILE_NAME).is_file() else Config()
    judge = judging.Judge(project, find_run(project, run))
    with Bars() as bars:
        scores = judging.score_file(
            judge, file, config, project=project, progress=lambda done, total: bars("scoring answers", done, total)
        )
    out = out or answers_file(project, f"{judge.name}-scores-{file.stem}")
    judging.write_scores(scores, out)
    told = judging.as_json(judge, scores, file, out)
    if as_json:
        emit(told)
        return
    say(f"{told['rows']} rows, score {told['mean']:.3f} in the mean")
    if told["pairs"]:
        low, high = told["interval"]
        say(f"the better answer gets more in {percent(told['accuracy'])} of {told['pairs']} pairs "
            f"({percent(low)} to {percent(high)}), by {told['margin']:.3f} in the mean")  # fmt: skip
    say(f"every score: {out}")


def _numbers(text: str) -> tuple[float, ...]:
    from fledge.errors import ConfigError

    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError as error:
        raise ConfigError("config.bad_value", f"'{text}' is no list of numbers.", where="--weights",
                          remedy="For example: --weights 1,0.2") from error  # fmt: skip


def _draw(trial: Trial) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from fledge.cli.output import percent, say

    console = Console(highlight=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("reward", "good", "bad", "samples", "spread", "flat groups"):
        table.add_column(name, justify="left" if name == "reward" else "right")
    rows = [*trial.rewards, *([trial.total] if len(trial.rewards) > 1 else [])]
    for each in rows:
        numbers = (
            "-" if value is None else f"{value:.3f}" for value in (each.good, each.bad, each.samples, each.spread)
        )
        table.add_row(Text(each.name), *numbers, percent(each.flat_groups))
    console.print(table)
    for each in rows:
        _histogram(each)
    for each in trial.rewards:
        for error in each.errors[:SHOWN_ERRORS]:
            say(f"error: {error}")
        if len(each.errors) > SHOWN_ERRORS:
            say(f"   ... and {len(each.errors) - SHOWN_ERRORS} more of {each.name}")
    for note in trial.notes:
        say(f"note: {note}.")
    say(f"verdict: {trial.verdict.value.replace('_', ' ')}. {trial.why}")


def _histogram(figures: Figures) -> None:
    from rich.console import Console
    from rich.text import Text

    from fledge.cli.check_picture import bars

    if not figures.values:
        return
    console = Console(highlight=False, soft_wrap=True)
    what = "samples" if figures.samples is not None else "good and bad answers"
    console.print(Text(f"\n{figures.name}: what {what} got", style="bold"))
    bars(console, _counted(figures.values))


def _counted(values: tuple[float, ...]) -> list[tuple[str, int]]:
    """Return (label, how many): the values themselves where they are few, else ranges of equal width."""
    distinct = sorted(set(values))
    if len(distinct) <= BINS:
        return [(f"{value:.4g}", values.count(value)) for value in distinct]
    low, width = distinct[0], (distinct[-1] - distinct[0]) / BINS
    counts = [0] * BINS
    for value in values:
        counts[min(BINS - 1, int((value - low) / width))] += 1
    return [(f"{low + n * width:.3g} to {low + (n + 1) * width:.3g}", count) for n, count in enumerate(counts)]
