"""Runs that learn from preferences: they learn them, go on bit by bit, and refuse what does not fit."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from fledge.config_file import load_config
from fledge.errors import ConfigError, DataError
from fledge.project import list_runs
from fledge.recipes import reference
from fledge.recipes.forecast import forecast
from fledge.recipes.setup import build, prepare, refer
from fledge.recipes.tune import Listener, resume, tune
from fledge.training import log
from fledge.training.aims import aim_of, unheard
from tiny import save_project

PAIRED = ("dpo", "ipo", "simpo", "orpo")
KNOBS = {"objective": "dpo", "data": {"eval": "data/eval.jsonl"}}


def save_pairs(folder: Path, objective: str = "dpo", **train: Any) -> Path:
    """Save a project whose pairs have one rule: the answer that names the fox is better."""
    project = save_project(folder, **{"epochs": 6, "lr": 2e-2, "tokens_per_piece": 48} | train)
    for name, first, count in (("train", 0, 24), ("eval", 100, 8)):
        rows = [
            {
                "prompt": f"The {('dog', 'add', 'return')[n % 3]} {n}?",
                "chosen": "the fox",
                "rejected": ("the dog", "an add 7")[n % 2],
            }
            for n in range(first, first + count)
        ]
        if objective == "kto":
            rows = [
                {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
                for row in rows
                for side in ("chosen", "rejected")
            ]
        (project / f"data/{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = yaml.safe_load((project / "fledge.yaml").read_text(encoding="utf-8"))
    config |= {"objective": objective, "data": {"eval": "data/eval.jsonl"}}
    (project / "fledge.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return project


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where references are kept: a folder of the test's own, while compiled kernels stay where they are."""
    monkeypatch.setattr(reference, "cache_root", lambda: tmp_path / "home")
    return tmp_path / "home" / "reference"


@pytest.mark.parametrize("objective", [*PAIRED, "kto"])
def test_a_run_learns_what_is_preferred_and_goes_on_bit_by_bit(objective: str, tmp_path: Path, kept: Path) -> None:
    project = save_pairs(tmp_path / "project", objective)
    summary = tune(project, load_config(project))
    whole = list_runs(project)[0]
    learnt = summary["eval_metrics"]
    if objective == "kto":
        assert learnt["reward_good"] > learnt["reward_bad"] + 1
    else:
        assert learnt["accuracy"] == 1.0
    assert summary["rows"] == (48 if objective == "kto" else 24)
    lines = list(log.read(whole.metrics))
    assert lines[-1]["metrics"]["accuracy"] > 0.7
    if objective == "dpo":
        assert lines[0]["loss"] == pytest.approx(0.693147, abs=1e-4), "it begins as its reference"
    page = whole.report.read_text(encoding="utf-8")
    assert "Told apart" in page and f"held-out rows: {learnt['accuracy']:.3g}" in page

    def killed(step: Any) -> None:
        if step.step == 5:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        tune(project, load_config(project), listener=Listener(step=killed))
    for file in kept.glob("*"):
        file.unlink()
    cut = list_runs(project)[1]
    resume(project, cut)
    adapters = [(run.adapter / "adapter_model.safetensors").read_bytes() for run in (whole, cut)]
    assert adapters[0] == adapters[1]
    strip = [[{k: v for k, v in line.items() if k != "seconds"} for line in log.read(r.metrics)] for r in (whole, cut)]
    assert strip[0] == strip[1]


def test_references_are_kept_and_are_what_is_computed(tmp_path: Path, kept: Path) -> None:
    project = save_pairs(tmp_path / "project")
    setup = prepare(project, load_config(project))
    said: list[str] = []
    found = []
    for _ in range(2):
        model, _, _ = build(setup)
        found.append([e.columns["reference"] for e in refer(setup, model, said.append).lesson.examples])
    assert found[0] == found[1]
    assert said == [
        "scores 48 answers with the model as it is, once",
        "scores 16 answers with the model as it is, once",
    ]
    (damaged, _) = sorted(kept.glob("*.logps"))
    damaged.write_bytes(damaged.read_bytes()[:-8])
    model, _, _ = build(setup)
    assert [e.columns["reference"] for e in refer(setup, model, said.append).lesson.examples] == found[0]
    assert len(said) == 3, "what is not whole is computed again"


def test_a_forecast_needs_no_references(tmp_path: Path, kept: Path) -> None:
    for objective in ("dpo", "kto"):
        project = save_pairs(tmp_path / objective, objective)
        told = forecast(project, load_config(project), say=lambda _: None)
        assert all(check["ok"] for check in told["checks"]) and told["forecast"]["seconds"] > 0
        assert not kept.exists()


def test_pairs_and_answers_go_to_the_objective_that_fits(tmp_path: Path) -> None:
    project = save_pairs(tmp_path / "project")
    with pytest.raises(DataError, match="objective: dpo") as caught:
        prepare(project, load_config(project, ["objective=sft"]))
    assert caught.value.code == "data.other_objective" and "train.jsonl" in caught.value.where
    form = re.search(r"data\.format=(\w+)", caught.value.remedy)
    assert form is not None
    lesson = prepare(project, load_config(project, ["objective=sft", f"data.format={form[1]}"])).lesson
    assert lesson.num_rows == 24, "named, it is meant"
    judged = prepare(project, load_config(project, ["objective=kto"])).lesson
    assert judged.num_rows == len(judged.aside) == 48
    assert [e.columns["label"] for e in judged.examples[:4]] == [1.0, 0.0, 1.0, 0.0]
    answers = project / "data/answers.jsonl"
    answers.write_text('{"question": "a?", "answer": "b"}\n', encoding="utf-8")
    for objective in ("dpo", "kto"):
        with pytest.raises(DataError, match="objective: sft"):
            prepare(project, load_config(project, [f"objective={objective}", "data.train=data/answers.jsonl"]))
    votes = save_pairs(tmp_path / "votes", "kto")
    with pytest.raises(DataError, match="objective: kto"):
        prepare(votes, load_config(votes, ["objective=dpo"]))
    with pytest.raises(DataError, match="objective: kto"):
        prepare(votes, load_config(votes, ["objective=sft"]))


def test_answers_that_are_the_same_are_named(tmp_path: Path) -> None:
    project = save_pairs(tmp_path / "project")
    same = {"prompt": "a?", "chosen": "b", "rejected": "b"}
    with (project / "data/train.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(same) + "\n")
    with pytest.raises(DataError, match="are the same") as caught:
        prepare(project, load_config(project))
    assert caught.value.where.endswith("train.jsonl:25")


def test_both_sides_of_few_good_answers_weigh_the_same(tmp_path: Path) -> None:
    project = save_pairs(tmp_path / "project", "kto")
    path = project / "data/train.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    few = [row for row in rows if not row["label"]] + [row for row in rows if row["label"]][:6]
    path.write_text("".join(json.dumps(row) + "\n" for row in few), encoding="utf-8")
    setup = prepare(project, load_config(project))
    assert (setup.config.preference.good_weight, setup.config.preference.bad_weight) == (4.0, 1.0)
    assert any("preference.good_weight = 4.0: 6 answers are good and 24 bad" in note for note in setup.notes)
    assert aim_of(setup.config).beta == setup.config.preference.beta


def test_a_pair_with_one_answer_too_long_is_left_out_whole(tmp_path: Path) -> None:
    project = save_pairs(tmp_path / "project", max_tokens=40)
    long = {"prompt": "a?", "chosen": "the fox", "rejected": "dog " * 60}
    with (project / "data/train.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(long) + "\n")
    setup = prepare(project, load_config(project))
    assert len(setup.lesson.examples) == 48
    assert [Path(where).name for where in setup.lesson.too_long] == ["train.jsonl:25"]


def test_an_adapter_after_the_prompt_learns_pairs_too(tmp_path: Path) -> None:
    project = save_pairs(tmp_path / "project")
    summary = tune(project, load_config(project, ["train.after_prompt=true"]))
    assert summary["eval_metrics"]["accuracy"] == 1.0
    votes = save_pairs(tmp_path / "votes", "kto")
    with pytest.raises(ConfigError, match="exclude each other"):
        prepare(votes, load_config(votes, ["train.after_prompt=true"]))


@pytest.mark.parametrize("options", [["train.top_layers=1"], ["train.dora=true"], ["train.tokens_per_piece=8"]])
def test_other_ways_to_compute_them(options: list[str], tmp_path: Path) -> None:
    project = save_pairs(tmp_path / "project")
    assert tune(project, load_config(project, options))["eval_metrics"]["accuracy"] == 1.0


def test_a_knob_that_says_nothing_to_the_objective_is_told(tmp_path: Path) -> None:
    project = save_pairs(tmp_path / "project")
    knobs = ["preference.gamma=1.0", "preference.label_smoothing=0.1", "preference.bad_weight=2"]
    notes = prepare(project, load_config(project, knobs)).notes
    assert "WARNING: preference.gamma, preference.bad_weight: says nothing to dpo" in notes
    for knobs in ([], ["objective=sft", "data.format=preference"]):
        setup = prepare(project, load_config(project, knobs))
        assert not any("says nothing" in note for note in setup.notes)
        assert not unheard(setup.config), "nor when the run is gone on with"
