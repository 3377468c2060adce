"""`fledge advise trial` with the real starter: every arm is asked the same rows, and what is wrong is said first."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fledge.config import Config
from fledge.config_file import load_config
from fledge.errors import ConfigError, DataError
from fledge.recipes.trial import Order, Progress, trial

COLOURS = ("red", "green", "blue", "white", "black")


def write_project(folder: Path, rows: int) -> Path:
    """Rows that nobody can answer who has not read them: which colour has box 17?"""
    said = [{"question": f"Which colour has box {i}?", "answer": f"Box {i} is {COLOURS[i % 5]}."} for i in range(rows)]
    folder.mkdir(exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in said), encoding="utf-8")
    knobs = "model: smollm2-135m\ndata:\n  train: rows.jsonl\ntrain:\n  epochs: 1\n  eval_every: 0\n"
    (folder / "fledge.yaml").write_text(knobs, encoding="utf-8")
    return folder


def test_one_arm_alone_is_asked_and_told(starter_gguf: Path, tmp_path: Path) -> None:
    project = write_project(tmp_path / "project", 60)
    found = trial(project, load_config(project), Order(arms=("prompt",), most_rows=10))
    [arm] = found["arms"]
    assert (found["rows"], arm["arm"], found["train_s"]) == (10, "prompt", 0.0)
    assert found["arm"] == "prompt" and found["advice"].startswith(("Don't train", "None is good enough"))


@pytest.mark.slow
def test_documents_that_hold_the_answers_are_what_retrieval_answers_from(starter_gguf: Path, tmp_path: Path) -> None:
    project = write_project(tmp_path / "project", 60)
    (project / "knowledge").mkdir()
    text = "".join(f"Box {i} is {COLOURS[i % 5]}.\n\n" for i in range(60))
    (project / "knowledge/boxes.txt").write_text(text, encoding="utf-8")
    done: list[tuple[str, int]] = []
    progress = Progress(asked=lambda arm, number, total: done.append((arm, number)))
    order = Order(arms=("prompt", "rag", "tuned"), most_rows=12)
    found = trial(project, load_config(project), order, progress=progress)
    assert found["rows"] == 12 and found["learnt"] == 40
    arms = {arm["arm"]: arm for arm in found["arms"]}
    assert list(arms) == ["prompt", "rag", "tuned"] and {arm for arm, _ in done} == set(arms)
    assert arms["rag"]["tokens"] > arms["prompt"]["tokens"], "what was found is read too"
    assert all(arm["seconds"] > 0 and arm["cost"] > 0 and 0 <= arm["accuracy"] <= 1 for arm in arms.values())
    assert arms["tuned"]["train_cost"] > 0 == arms["prompt"]["train_cost"]
    assert found["arm"] in arms and found["why"]
    assert not (project / "runs").exists(), "nothing is left in the project"


def test_too_few_rows_and_what_cannot_be_tried_are_said_before_anything_runs(tmp_path: Path) -> None:
    project = write_project(tmp_path / "project", 30)
    with pytest.raises(DataError, match="fewer than 10 tell nothing"):
        trial(project, load_config(project), Order())
    with pytest.raises(ConfigError, match="only what answers questions"):
        trial(project, Config(objective="dpo"), Order())
    project = write_project(tmp_path / "other", 80)
    with pytest.raises(DataError, match="no such folder of documents"):
        trial(project, load_config(project), replace(Order(), knowledge=tmp_path / "nowhere"))
