"""Rows -> adapter, or trained weights: the life of a training run, top to bottom."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import yaml
from torch import nn

import fledge
from fledge.config import Config
from fledge.errors import ConfigError, RunError
from fledge.model.adapter import TENSORS_NAME, save_adapter
from fledge.model.causal import CausalModel
from fledge.model.memory import peak_rss_bytes
from fledge.model.weights import SINGLE_NAME, OtherWeights
from fledge.project import RunFolder, locked, new_run, sha256_of, staged_folder, write_json_atomic, write_text_atomic
from fledge.recipes.held_out import Measured, measure, summary_of_tasks
from fledge.recipes.once import remember
from fledge.recipes.report import write_report
from fledge.recipes.rollouts import check_rollouts, open_source
from fledge.recipes.setup import Setup, build, prepare, refer, stream
from fledge.recipes.watch import Watch, best_is_there
from fledge.release.folder import copy_tokenizer, write_tokenizer
from fledge.training import checkpoint
from fledge.training.aims import aim_of, before_of, objective_of
from fledge.training.evaluations import Evaluation
from fledge.training.log import MetricsLog, read
from fledge.training.loop import Plan, Step, Summary, fit
from fledge.training.optim import Schedule


def _quiet(_: object) -> None: ...


@dataclass(frozen=True)
class Listener:
    """Who wants to know: `say` gets words for people, `step` every optimizer step.

    evaluated: gets every look at held-out rows, after a resume those before it again; True ends the run there.
    """

    say: Callable[[str], None] = _quiet
    step: Callable[[Step], None] = _quiet
    evaluated: Callable[[Evaluation], bool] = lambda _: False


def tune(
    project: Path, config: Config, *, listener: Listener | None = None, into: RunFolder | None = None
) -> dict[str, Any]:
    """Train a new run of the project, or `into` an empty folder, and return what the contract says of `fledge train`.

    Ctrl-C leaves a run that `resume` finishes with the same bytes.
    """
    listener = listener or Listener()
    setup = prepare(project, config, say=listener.say)
    check_rollouts(setup, project)
    label = f"{config.objective}-{_slug(config.model)}"
    run = into or new_run(project, label)
    # From here on the run can be found and resumed: all that `resume` needs stands in run.yaml.
    record = {
        "fledge": fledge.__version__,
        "threads": setup.threads,
        "date": setup.template.today,
        "identity": setup.identity,
        "notes": list(setup.notes),
        "spread": setup.spread,
        "knobs": setup.config.model_dump(),
    }
    write_text_atomic(run.knobs, yaml.safe_dump(record, sort_keys=False, allow_unicode=True))
    return _train(project, run, setup, listener)


def resume(project: Path, run: RunFolder, *, listener: Listener | None = None) -> dict[str, Any]:
    """Finish an interrupted run, bit by bit as if it had not been interrupted. A finished run is only reported.

    Raises RunError where the model, the rows or the knobs are not those the run was begun with.
    """
    listener = listener or Listener()
    if run.finished:
        summary = dict(json.loads(run.manifest.read_text(encoding="utf-8"))["summary"])
        if "made_of" in summary:
            raise RunError(
                "run.not_resumable",
                "it is made of other runs and was not trained.",
                where=str(run.path),
                remedy="Train one of those, or start a new run with `fledge train`.",
            )
        listener.say(f"{run.path.name} is finished already.")
        return summary
    try:
        record = yaml.safe_load(run.knobs.read_text(encoding="utf-8"))
        config, identity, threads = Config.model_validate(record["knobs"]), record["identity"], int(record["threads"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise RunError(
            "run.not_resumable", "its run.yaml is missing or damaged.", where=str(run.path), remedy="Start a new run."
        ) from error
    setup = prepare(project, config, threads=threads, today=record.get("date"), say=listener.say)
    if setup.identity != identity:
        raise RunError(
            "run.not_resumable",
            "the base model, the rows or the knobs have changed since it was interrupted.",
            where=str(run.path),
            remedy="Put them back as they were, or start a new run with `fledge train`.",
        )
    return _train(project, run, setup, listener)


def _train(project: Path, run: RunFolder, setup: Setup, listener: Listener) -> dict[str, Any]:
    train = setup.config.train
    assert train.lr != "auto"
    for note in setup.notes:
        listener.say(note)
    with locked(run.path, "another process is training this run."), ExitStack() as stack:
        model, parameters, optimizer = build(setup)
        listener.say(model.path)
        setup = refer(setup, model, listener.say)
        size = setup.plan.tokens
        look: Callable[[], Measured] = partial(measure, model, setup.held_out, setup.config, max_tokens=size)
        source = None
        if setup.rolls_out:
            source = stack.enter_context(open_source(setup, model, project=project, run=run, say=listener.say))
            look = source.measure
        before = look()
        first_step = last_step = _restore(run, setup, parameters, optimizer, listener)
        watch = Watch(run, setup, model, parameters, look=look, first_step=first_step, tell=listener.evaluated)
        plan = Plan(
            steps=setup.steps,
            first_step=first_step,
            schedule=Schedule(train.lr, setup.steps, train.warmup),
            clip_norm=train.clip_norm,
            checkpoint_s=train.checkpoint_s,
            checkpoint=lambda step: checkpoint.save(
                run.checkpoints, step=step, identity=setup.identity, parameters=parameters, optimizer=optimizer
            ),
            before=before_of(setup.config),
            ends_after=watch,
        )
        objective = objective_of(setup.config)
        if source is not None:
            steps = source.batches(first_step)
        else:
            memory = remember(model, train, setup.places, listener.say)
            steps = stream(setup, first_step=first_step, memory=memory)
        with closing(MetricsLog(run.metrics, first_step=first_step)) as log:
            if not watch.over and (done := fit(model, steps, objective, optimizer, plan, [log, listener.step])):
                last_step = done[-1].step
        kept_step = watch.take_best(last_step)
        for words in watch.words(last_step, kept_step):
            listener.say(words)
        saved = _save(run, setup, model)
        told = watch.summary(kept_step)
        return _finish(run, setup, before, watch.measured(kept_step), told, saved, parameters)


def _save(run: RunFolder, setup: Setup, model: CausalModel) -> Path:
    """Write what was trained, whole or not at all; return its file."""
    if setup.config.method == "full":
        with staged_folder(run.model) as staged:
            model.save_weights(staged)
            if isinstance(setup.weights, OtherWeights):
                copy_tokenizer(setup.weights.path, staged)
            _write_added(setup, staged)
        return run.model / SINGLE_NAME
    adapter = model.adapter(setup.lora, base_name=setup.config.model)
    if setup.config.train.after_prompt:
        adapter = replace(adapter, invocation_tokens=tuple(setup.template.invocation_ids()))
    if not aim_of(setup.config).judges:
        # A critic is of use to its own run alone.
        adapter = replace(adapter, score=None)
    save_adapter(adapter, run.adapter, beside=lambda staged: _write_added(setup, staged))
    return run.adapter / TENSORS_NAME


def _write_added(setup: Setup, folder: Path) -> None:
    """Put the tokenizer beside what was trained where tokens were added to it: other programs need it as well."""
    if setup.weights.added:
        write_tokenizer(folder, setup.weights, setup.template.tokenizer)


def _restore(
    run: RunFolder, setup: Setup, parameters: dict[str, Any], optimizer: torch.optim.Optimizer, listener: Listener
) -> int:
    found = checkpoint.latest(run.checkpoints)
    if found is None:
        if any(run.checkpoints.glob("step-*")):
            listener.say("every checkpoint is damaged: begins anew with step 1")
        return 0
    if not best_is_there(run, setup, checkpoint.step_of(found)):
        listener.say("what was kept as the best is damaged: begins anew with step 1")
        return 0
    step = checkpoint.load(found, identity=setup.identity, parameters=parameters, optimizer=optimizer)
    listener.say(f"goes on after step {step} of {setup.steps}")
    return step


def _finish(
    run: RunFolder,
    setup: Setup,
    before: Measured,
    measured: Measured,
    watched: Mapping[str, Any],
    saved: Path,
    parameters: Mapping[str, nn.Parameter],
) -> dict[str, Any]:
    """Write the manifest (which makes the run usable) and return the summary."""
    full = setup.config.method == "full"
    totals = _totals(run)
    summary = {
        "run": run.path.name,
        "method": setup.config.method,
        "objective": setup.config.objective,
        "rows": setup.lesson.num_rows,
        "rows_too_long": len(setup.lesson.too_long),
        **asdict(totals),
        **_rewards(run),
        "tokens_per_s": totals.tokens_effective / totals.seconds,
        "sharing": totals.tokens_effective / totals.tokens_computed,
        "eval_loss": measured.loss,
        "eval_metrics": dict(measured.metrics),
        "eval_before": {"loss": before.loss, **before.metrics},
        **watched,
        "tasks": summary_of_tasks(setup.course, setup.held_out.rows, measured.losses),
        "trainable_params": sum(parameter.numel() for parameter in parameters.values()),
        "peak_rss_bytes": peak_rss_bytes(),
        "adapter": None if full else str(run.adapter.resolve()),
        "model": str(run.model.resolve()) if full else None,
        "exportable": not (isinstance(setup.weights, OtherWeights) or aim_of(setup.config).judges),
        "diagnoses": [],
    }
    manifest = {
        "fledge": fledge.__version__,
        "model": setup.config.model,
        "base_path": str(setup.weights.path),
        "base_sha256": setup.base_sha256,
        "rows_sha256": setup.lesson.digest,
        "identity": setup.identity,
        "model_sha256" if full else "adapter_sha256": sha256_of(saved),
        "summary": summary,
    }
    write_json_atomic(run.manifest, manifest)
    checkpoint.remove_best(run.checkpoints)
    if full:
        # Twelve bytes a weight and more, from which nothing goes on any more.
        shutil.rmtree(run.checkpoints, ignore_errors=True)
    write_report(run)
    return summary


def _totals(run: RunFolder) -> Summary:
    """Return the totals over all steps of the run, those before an interruption included."""
    steps = [Step(**line) for line in read(run.metrics)]
    return Summary.of(steps)


def _rewards(run: RunFolder) -> dict[str, float]:
    """Return the mean reward of sampled replies in the first and in the last tenth of the steps, where there is one."""
    told = [line["metrics"]["reward"] for line in read(run.metrics) if "reward" in line["metrics"]]
    few = max(1, len(told) // 10)
    return {"reward_first": fmean(told[:few]), "reward_last": fmean(told[-few:])} if told else {}


def _slug(model: str) -> str:
    name = Path(model).stem if "/" in model or model.endswith(".gguf") else model
    slug = "".join(c if c.isalnum() or c in "._-" else "-" for c in name.lower()).strip("-.")
    if not slug:
        raise ConfigError("config.bad_value", f"model '{model}' has no name to call a run by.")
    return slug
