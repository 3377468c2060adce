"""Knobs tried in turn: each trial is an ordinary run, ended early where it falls behind; the best one stays.

A sweep folder holds sweep.yaml (what is tried on what), study.db (all trials), runs/ (one folder a trial), and at the
end sweep.json and sweep.html. Killed at any moment, it goes on inside the trial that was under way.
"""

from __future__ import annotations

import gc
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import fledge
from fledge.data.wanted import LEARNS_FROM
from fledge.errors import ConfigError, ExportError, FledgeError, RunError, TrainError
from fledge.project import locked, write_json_atomic, write_text_atomic
from fledge.recipes import tune
from fledge.recipes.setup import prepare
from fledge.recipes.space import FAILED, as_record, read_space, value_of, written
from fledge.recipes.study import Going, Study, Trial
from fledge.recipes.sweep_metric import check_metric, is_better_high, metric_of
from fledge.recipes.sweep_page import write_page
from fledge.recipes.sweep_plan import (
    Sweep,
    combinations,
    disk_words,
    find_sweep,
    inputs_of,
    looks_in,
    new_folder,
    opened,
)
from fledge.recipes.tune import Listener
from fledge.recipes.watch import ASKED
from fledge.training.evaluations import Evaluation
from fledge.training.loop import Step

USUAL_TRIALS, USUAL_METRIC = 20, "eval_loss"
# So many failed trials before the first good one are not the values' fault.
MOST_FAILED = 3


def _quiet(_: object) -> None: ...


@dataclass(frozen=True)
class Stage:
    """How a sweep is shown: `say` gets words, `progress` (trials done, trials in all, what is going on)."""

    say: Callable[[str], None] = _quiet
    progress: Callable[[float, int, str], None] = lambda done, total, note: None


@dataclass(frozen=True)
class Wish:
    """What is asked for. trials: None is USUAL_TRIALS, or as the sweep was begun. keep_all: adapters of all trials."""

    arguments: Sequence[str] = ()
    metric: str = USUAL_METRIC
    trials: int | None = None
    minutes: float | None = None
    keep_all: bool = False


def begin(project: Path, wish: Wish, stage: Stage) -> dict[str, Any]:
    """Start a sweep and return what `fledge sweep --json` says. Everything that can be wrong is found before it runs.

    Raises ConfigError for knobs, ranges and metrics that make no sense, and what `fledge train` raises.
    """
    space, given, config = read_space(project, wish.arguments)
    setup = prepare(project, config, say=stage.say)
    check_metric(wish.metric, space, setup)
    trials = wish.trials or USUAL_TRIALS
    if (every := combinations(space)) is not None and len(every) <= trials:
        stage.say(f"there are {len(every)} combinations in all: each is tried once")
        trials = len(every)
    looks = looks_in(setup, space)
    folder = new_folder(project)
    record = {
        "fledge": fledge.__version__,
        "space": [as_record(one) for one in space],
        "given": given,
        "metric": wish.metric,
        "trials": trials,
        "keep_all": wish.keep_all,
        "looks": looks,
        "inputs": inputs_of(setup),
        # What is measured on this machine or chosen from the rows is the same for all trials.
        "fixed": {name: value_of(setup.config, name) for name in ("train.epochs", "train.ram", "train.dtype")},
        "auto": {one.name: value_of(setup.config, one.name) for one in space},
        "knobs": config.model_dump(),
    }
    write_text_atomic(folder.record, yaml.safe_dump(record, sort_keys=False, allow_unicode=True))
    sweep = opened(project, folder, record)
    stage.say(f"{folder.path.name}: {trials} trials of {', '.join(map(str, space))}, by {wish.metric}")
    for one in space:
        if not one.holds(usual := sweep.auto[one.name]):
            stage.say(f"auto would take {one.name}={written(usual)}, which is not among what is tried")
    if wish.metric == USUAL_METRIC and LEARNS_FROM[config.objective] == "answers" and config.objective != "text":
        stage.say("the held-out loss of answers may rise while more of them are right: --metric score counts those")
    stage.say(disk_words(setup, space, wish.keep_all, trials))
    if not looks:
        stage.say("looking at the held-out rows takes too long for trials to be compared on the way: none ends early")
    return _go(sweep, wish, stage)


def resume(project: Path, spec: str, wish: Wish, stage: Stage) -> dict[str, Any]:
    """Go on with a sweep, where it was interrupted or for more trials than it was begun with.

    Raises RunError where there is none, or where the model or the rows are not those it was begun with.
    """
    folder = find_sweep(project, spec)
    try:
        record = yaml.safe_load(folder.record.read_text(encoding="utf-8"))
        sweep = opened(project, folder, record | ({"trials": wish.trials} if wish.trials else {}))
        inputs = record["inputs"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise RunError(
            "run.not_resumable",
            "its sweep.yaml is missing or damaged.",
            where=str(folder.path),
            remedy="Start a new sweep.",
        ) from error
    if inputs_of(prepare(project, sweep.config, say=_quiet)) != inputs:
        raise RunError(
            "run.not_resumable",
            "the base model or the rows have changed since the sweep was begun: its trials cannot be compared.",
            where=str(folder.path),
            remedy="Put them back as they were, or start a new sweep.",
        )
    return _go(sweep, wish, stage)


def _go(sweep: Sweep, wish: Wish, stage: Stage) -> dict[str, Any]:
    """Take trials until there are enough or the time is over, and return what they tell."""
    started = time.monotonic()
    seed = sweep.config.train.seed
    with (
        locked(sweep.folder.path, "another process goes on with this sweep."),
        Study(sweep.folder.study, sweep.space, maximise=is_better_high(sweep.metric), seed=seed) as study,
    ):
        if study.is_new:
            for values in _first_values(sweep):
                study.queue(values)
        while len(trials := study.trials()) < sweep.trials:
            seconds = [float(trial.told["seconds"]) for trial in trials if "seconds" in trial.told]
            spent = time.monotonic() - started
            if wish.minutes is not None and seconds and spent + statistics.median(seconds) > 60 * wish.minutes:
                stage.say(f"{wish.minutes:g} minutes would be over before the next trial: stops after {len(trials)}")
                break
            _take(sweep, study.begin(), study, stage)
            _tidy(sweep, study)
        return _result(sweep, study, stage)


def _first_values(sweep: Sweep) -> list[dict[str, Any]]:
    """Return what is tried first: what `auto` would take, so that one sees what the sweep gains; or all there is."""
    usual = {one.name: sweep.auto[one.name] for one in sweep.space if one.holds(sweep.auto[one.name])}
    every = combinations(sweep.space)
    if every is not None and len(every) <= sweep.trials:
        return sorted(every, key=lambda values: values != usual)
    return [usual] if usual else []


def _take(sweep: Sweep, trial: Going, study: Study, stage: Stage) -> None:
    """Train one trial to its end, or to where it falls behind, and keep what came out."""
    heard = sweep.heard(trial.values)
    done = (other for other in study.trials() if other.value is not None)
    again = next((other for other in done if sweep.heard(other.values) == heard), None)
    if again is not None and again.value is not None:
        trial.note(**again.told, same_as=again.number)
        trial.done(again.value)
        return
    run = sweep.folder.run(trial.number)
    best = study.best()
    words = " ".join(f"{name.rpartition('.')[2]}={value}" for name, value in heard.items())
    best_words = "" if best is None or best.value is None else f"  best {best.value:.3f} (trial {best.number + 1})"

    def on_step(step: Step) -> None:
        done = trial.number + step.step / step.steps
        stage.progress(done, sweep.trials, f"{words}  loss {step.loss:.3f}{best_words}")

    def on_evaluation(evaluation: Evaluation) -> bool:
        share = evaluation.epoch / sweep.epochs(trial.values)
        return trial.look(max(1, round(sweep.looks * share)), evaluation.loss)

    listener = Listener(step=on_step, evaluated=on_evaluation)
    started = time.monotonic()
    try:
        if run.knobs.is_file():
            summary = tune.resume(sweep.project, run, listener=listener)
        else:
            run.path.mkdir(parents=True, exist_ok=True)
            summary = tune.tune(sweep.project, sweep.config_of(trial.values), listener=listener, into=run)
        ended = summary["stopped_early"] == ASKED
        value = None if ended else metric_of(sweep.metric, summary, run, sweep.project)
    except (TrainError, ConfigError, ExportError) as error:
        trial.note(why=str(error), seconds=time.monotonic() - started, code=error.code)
        trial.fail()
        _require_a_good_one(study, error)
        return
    trial.note(
        # with reading, looking and scoring; of a trial that was resumed at least its steps
        seconds=max(summary["seconds"], time.monotonic() - started),
        steps=summary["steps"],
        kept_step=summary["kept_step"],
        eval_loss=summary["eval_loss"],
        eval_metrics=summary["eval_metrics"],
    )
    trial.prune() if value is None else trial.done(value)
    # The model of this trial goes before that of the next comes.
    gc.collect()


def _require_a_good_one(study: Study, error: FledgeError) -> None:
    trials = study.trials()
    if len(trials) >= MOST_FAILED and all(trial.state == FAILED for trial in trials):
        raise error


def _tidy(sweep: Sweep, study: Study) -> None:
    """Remove what is large of trials that are over; of the best one the adapter stays."""
    best = study.best()
    for trial in study.trials():
        run = sweep.folder.run(trial.number)
        shutil.rmtree(run.checkpoints, ignore_errors=True)
        if not sweep.keep_all and (best is None or trial.number != best.number):
            shutil.rmtree(run.adapter, ignore_errors=True)
            shutil.rmtree(run.model, ignore_errors=True)


def _result(sweep: Sweep, study: Study, stage: Stage) -> dict[str, Any]:
    """Write what the sweep found and return it."""
    trials = [_told(sweep, trial) for trial in study.trials()]
    best = study.best()
    usual = next((trial for trial in trials if trial["knobs"] == dict(sweep.auto) and trial["value"] is not None), None)
    result: dict[str, Any] = {
        "sweep": str(sweep.folder.path),
        "metric": sweep.metric,
        "higher_is_better": is_better_high(sweep.metric),
        "trials": trials,
        "trials_wanted": sweep.trials,
        "best": None if best is None else trials[[t["trial"] for t in trials].index(best.number + 1)],
        "auto": usual,
        "command": "",
        "seconds": sum(float(trial["seconds"] or 0.0) for trial in trials),
        "bytes": sum(file.stat().st_size for file in sweep.folder.path.rglob("*") if file.is_file()),
        "page": str(sweep.folder.page),
    }
    if best is not None:
        result["command"] = sweep.command(best.values)
    write_json_atomic(sweep.folder.result, result)
    write_page(sweep.folder.page, sweep.space, result)
    stage.progress(len(trials), sweep.trials, "")
    return result


def _told(sweep: Sweep, trial: Trial) -> dict[str, Any]:
    run = sweep.folder.run(int(trial.told.get("same_as", trial.number)))
    return {
        "trial": trial.number + 1,
        "state": trial.state,
        "knobs": dict(trial.values),
        "value": trial.value,
        "eval_loss": trial.told.get("eval_loss"),
        "eval_metrics": trial.told.get("eval_metrics", {}),
        "steps": trial.told.get("steps"),
        "kept_step": trial.told.get("kept_step"),
        "seconds": None if "same_as" in trial.told else trial.told.get("seconds"),
        "same_as": trial.told["same_as"] + 1 if "same_as" in trial.told else None,
        "why": trial.told.get("why"),
        "run": str(run.path),
        "adapter": str(run.adapter) if run.adapter.is_dir() else None,
        "model": str(run.model) if run.model.is_dir() else None,
    }
