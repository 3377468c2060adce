"""Held-out rows are looked at inside a run: no trained byte changes, the best state is kept, a run ends in time."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from fledge.config_file import load_config
from fledge.errors import ConfigError
from fledge.model.adapter import load_adapter
from fledge.model.load import load_model
from fledge.model.lora import settings_of
from fledge.objective.scored import Scored
from fledge.project import RunFolder, list_runs
from fledge.recipes.setup import prepare
from fledge.recipes.tune import Listener, resume, tune
from fledge.training import checkpoint, log
from fledge.training.evaluations import Evaluation
from fledge.training.score import of_sequences
from tiny import save_project

TIMEOUT_S = 120
TRAINER = """
import sys
from pathlib import Path
from fledge.config_file import load_config
from fledge.project import list_runs
from fledge.recipes.tune import Listener, resume, tune

def told(evaluation):
    print(evaluation.step, flush=True)
    return False

project = Path(sys.argv[1])
listener = Listener(evaluated=told)
runs = list_runs(project)
if runs:
    resume(project, runs[-1], listener=listener)
else:
    tune(project, load_config(project), listener=listener)
"""


def make_project(folder: Path, *, pairs: bool = False, **train: Any) -> Path:
    """Save a project of 24 rows and 8 held-out ones that have little to do with them, so that learning overdoes it."""
    project = save_project(folder / "project", **{"epochs": 8, "dropout": 0.1, "lr": 3e-2} | train)
    rows: list[dict[str, str]] = [{"question": f"The fox {n + 3}?", "answer": f"add {n * 5} Grüße"} for n in range(8)]
    if pairs:
        rows = [{"prompt": f"The fox {n}?", "chosen": f"add {n * 5}", "rejected": f"dog {n}"} for n in range(8)]
        more = [{"prompt": f"The dog {n}?", "chosen": f"add {n * 3}", "rejected": f"fox {n}"} for n in range(24)]
        (project / "data/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in more), encoding="utf-8")
    (project / "data/eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = yaml.safe_load((project / "fledge.yaml").read_text(encoding="utf-8"))
    config["data"]["eval"] = "data/eval.jsonl"
    (project / "fledge.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return project


def train(project: Path, *knobs: str, listener: Listener | None = None) -> tuple[RunFolder, dict[str, Any]]:
    summary = tune(project, load_config(project, knobs), listener=listener)
    return list_runs(project)[-1], summary


def adapter_bytes(run: RunFolder) -> bytes:
    """Return what was trained: the adapter, or all weights where they are."""
    trained = run.model / "model.safetensors" if run.model.is_dir() else run.adapter / "adapter_model.safetensors"
    return trained.read_bytes()


def looks_of(run: RunFolder) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in log.read(run.evaluations)]


def loss_of(run: RunFolder, project: Path) -> float:
    """Return the held-out loss of a saved adapter, computed from its file: the mean over taught tokens."""
    setup = prepare(project, load_config(project))
    adapter = load_adapter(run.adapter)
    model = load_model(setup.weights, dtype=torch.float32)
    model.add_adapter(settings_of(adapter), seed=0)
    model.load_adapter(adapter)
    examples = setup.held_out.examples
    logps = of_sequences(model, examples, Scored.sums_S, tokens_per_piece=512)
    return -math.fsum(logps) / sum(weight for example in examples for weight in example.weights)


OFF = ("train.eval_every=0", "train.patience=null", "train.keep=last")
ON = ("train.eval_every=0.5", "train.patience=null", "train.keep=last")


@pytest.mark.parametrize(
    "knobs",
    [
        (),
        ("train.top_layers=1",),
        ("train.after_prompt=true",),
        ("objective=dpo",),
        ("objective=kto",),
        ("objective=reward",),
        ("method=full", "train.dropout=0", "train.rank=auto"),
    ],
    ids=["sft", "top_layers", "after_prompt", "dpo", "kto", "reward", "full"],
)
def test_looking_changes_nothing_that_is_trained(tmp_path: Path, knobs: tuple[str, ...]) -> None:
    project = make_project(tmp_path, pairs=any("objective" in knob for knob in knobs), epochs=3)
    blind, without = train(project, *OFF, *knobs)
    seeing, summary = train(project, *ON, *knobs)
    assert adapter_bytes(seeing) == adapter_bytes(blind)
    steps = [{k: v for k, v in line.items() if k != "seconds"} for line in log.read(seeing.metrics)]
    assert steps == [{k: v for k, v in line.items() if k != "seconds"} for line in log.read(blind.metrics)]
    # A pair is two judged answers.
    last_step = 18 if "objective=kto" in knobs else 9
    expected = [3, 6, 9, 12, 15, 18] if last_step == 18 else [2, 3, 4, 6, 8, 9]
    assert [look["step"] for look in looks_of(seeing)] == expected
    assert not blind.evaluations.exists()
    last = looks_of(seeing)[-1]
    assert last["loss"] == summary["eval_loss"] == without["eval_loss"], "looking once more would tell the same"
    assert last["metrics"] == summary["eval_metrics"] == without["eval_metrics"]
    assert (summary["evaluations"], without["evaluations"]) == (6, 0)
    assert (summary["kept_step"], summary["stopped_early"], summary["steps_planned"]) == (last_step, None, last_step)


def test_a_run_that_gains_nothing_ends_and_the_best_state_is_handed_over(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    told: list[Evaluation] = []
    words: list[str] = []

    def tell(evaluation: Evaluation) -> bool:
        told.append(evaluation)
        return False

    run, summary = train(project, "train.patience=2", listener=Listener(say=words.append, evaluated=tell))
    looks = looks_of(run)
    losses = [look["loss"] for look in looks]
    assert [evaluation.loss for evaluation in told] == losses
    best = min(range(len(losses)), key=losses.__getitem__)
    assert len(losses) == best + 3 < 8, "two looks in vain end it"
    assert summary["steps"] == looks[-1]["step"] < summary["steps_planned"] == 24
    assert summary["kept_step"] == looks[best]["step"]
    assert summary["eval_loss"] == losses[best]
    assert loss_of(run, project) == pytest.approx(losses[best], rel=1e-5)
    assert losses[best] < losses[-1]
    [stopped] = [line for line in words if line.startswith("stopped after step")]
    assert stopped == f"stopped after step {looks[-1]['step']} of 24: the held-out loss has not fallen in 2 looks"
    assert any(line.startswith(f"kept what it was after step {looks[best]['step']}: ") for line in words)
    page = run.report.read_text(encoding="utf-8")
    assert f"Kept is what it was after step {looks[best]['step']}" in page
    assert page.count('<circle class="held-out"') == len(looks)
    assert not list(run.checkpoints.glob("best-*")), "what is handed over need not be kept twice"


def test_the_best_weights_are_handed_over_where_all_are_trained(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    knobs = ("method=full", "train.dropout=0", "train.rank=auto", "train.eval_every=1", "train.patience=2")
    run, summary = train(project, *knobs)
    assert summary["kept_step"] < summary["steps"]
    # A run that ends where the best state was has the very same weights.
    until = summary["kept_step"]
    again, _ = train(project, *knobs, listener=Listener(evaluated=lambda seen: seen.step >= until))
    assert adapter_bytes(again) == adapter_bytes(run)


def test_the_last_state_is_handed_over_where_that_is_asked_for(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    run, summary = train(project, "train.patience=2", "train.keep=last")
    assert summary["kept_step"] == summary["steps"] < 24
    assert summary["eval_loss"] == looks_of(run)[-1]["loss"]
    assert loss_of(run, project) == pytest.approx(looks_of(run)[-1]["loss"], rel=1e-5)


def test_whoever_listens_may_end_a_run(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    run, summary = train(project, "train.eval_every=1", listener=Listener(evaluated=lambda seen: seen.step >= 6))
    assert (summary["steps"], summary["stopped_early"]) == (6, "it was asked to")
    assert run.finished


def test_patience_without_held_out_rows_is_one_line_before_anything_is_written(tmp_path: Path) -> None:
    project = save_project(tmp_path / "project")
    with pytest.raises(ConfigError, match="train.patience is 2, and no rows are held out to look at. Name some in"):
        train(project, "train.patience=2")
    assert not (project / "runs").exists()


@contextmanager
def trainer(project: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", TRAINER, str(project)]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def kill_at_look(project: Path, step: int) -> None:
    """Begin or go on with the project's run, and kill it when it tells of the look after `step` for the first time."""
    with trainer(project) as process:
        assert process.stdout is not None
        assert any(int(line) >= step for line in process.stdout)
        process.send_signal(signal.SIGKILL)
        assert process.wait(TIMEOUT_S) == -signal.SIGKILL


@pytest.mark.slow
def test_killed_at_any_look_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    knobs = {"patience": 3, "eval_every": 1 / 3, "keep": "best"}
    whole, summary = train(make_project(tmp_path / "whole", **knobs))
    assert summary["kept_step"] < summary["steps"] < 24
    project = make_project(tmp_path / "killed", **knobs)
    for step in (1, summary["kept_step"], summary["kept_step"] + 1):
        kill_at_look(project, step)
    [run] = list_runs(project)
    assert not run.finished
    again = resume(project, run)
    assert adapter_bytes(run) == adapter_bytes(whole)
    assert looks_of(run) == looks_of(whole)
    for key in ("steps", "kept_step", "stopped_early", "eval_loss"):
        assert again[key] == summary[key]


@pytest.mark.slow
def test_a_damaged_best_state_is_made_again(tmp_path: Path) -> None:
    knobs = {"patience": 4, "eval_every": 1 / 3, "keep": "best"}
    whole, summary = train(make_project(tmp_path / "whole", **knobs))
    project = make_project(tmp_path / "killed", **knobs)
    kill_at_look(project, summary["kept_step"] + 2)
    [run] = list_runs(project)
    [best] = run.checkpoints.glob("best-*")
    (best / checkpoint.STATE).write_bytes(b"not what was written")
    words: list[str] = []
    resume(project, run, listener=Listener(say=words.append))
    assert "what was kept as the best is damaged: begins anew with step 1" in words
    assert adapter_bytes(run) == adapter_bytes(whole)
    assert looks_of(run) == looks_of(whole)


def test_a_run_that_was_over_when_it_was_killed_takes_no_further_step(tmp_path: Path) -> None:
    """Killed between its last look and its manifest: the patience that ended it must end it again, not begin anew."""
    project = make_project(tmp_path, patience=2)
    run, summary = train(project)
    adapter = adapter_bytes(run)
    other = make_project(tmp_path / "other", patience=2)

    def press(evaluation: Evaluation) -> bool:
        if evaluation.step == summary["steps"]:
            signal.raise_signal(signal.SIGINT)
        return False

    with pytest.raises(KeyboardInterrupt):
        train(other, listener=Listener(evaluated=press))
    [again] = list_runs(other)
    assert not again.finished
    steps: list[int] = []
    resume(other, again, listener=Listener(step=lambda step: steps.append(step.step)))
    assert steps == []
    assert adapter_bytes(again) == adapter
