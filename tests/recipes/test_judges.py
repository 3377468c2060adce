"""Runs that learn to score answers: what they learn, how they go on, and what their scores are good for."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from fledge.config import Config
from fledge.config_file import load_config
from fledge.errors import ConfigError, DataError, ExportError, FledgeError, ModelError, RunError
from fledge.model.combine import Recipe
from fledge.project import find_run, list_runs
from fledge.recipes.combine import combine_runs
from fledge.recipes.forecast import forecast
from fledge.recipes.judge import Judge, as_json, score_file, write_scores
from fledge.recipes.reward import Options, open_rewards, try_on_project
from fledge.recipes.setup import prepare
from fledge.recipes.ship import export, merge_folder, open_run
from fledge.recipes.target import serve_target
from fledge.recipes.tune import Listener, resume, tune
from fledge.records import Message
from fledge.rewards.record import Sample
from fledge.training import log
from tiny import save_project

# PEFT reads a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def pair(n: int) -> dict[str, str]:
    """One rule: the answer that names the fox is better."""
    asked = f"The {('dog', 'add', 'return')[n % 3]} {n}?"
    return {"prompt": asked, "chosen": "the fox", "rejected": ("the dog", "an add 7")[n % 2]}


def save_pairs(folder: Path, **train: Any) -> Path:
    project = save_project(folder, **{"epochs": 6, "lr": 2e-2, "tokens_per_piece": 48} | train)
    for name, first, count in (("train", 0, 24), ("eval", 100, 8)):
        rows = "".join(json.dumps(pair(n)) + "\n" for n in range(first, first + count))
        (project / f"data/{name}.jsonl").write_text(rows, encoding="utf-8")
    config = yaml.safe_load((project / "fledge.yaml").read_text(encoding="utf-8"))
    config |= {"objective": "reward", "data": {"eval": "data/eval.jsonl"}}
    (project / "fledge.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return project


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a finished run of objective reward, run 1."""
    project = save_pairs(tmp_path_factory.mktemp("judge") / "project")
    tune(project, load_config(project))
    return project


def test_a_run_learns_what_is_better(taught: Path) -> None:
    [run] = list_runs(taught)
    summary = json.loads(run.manifest.read_text(encoding="utf-8"))["summary"]
    assert summary["eval_metrics"]["accuracy"] == 1.0 and summary["eval_metrics"]["margin"] > 1
    assert summary["eval_before"]["accuracy"] == 0.5, "before, nothing is told apart"
    assert summary["eval_before"]["loss"] == pytest.approx(0.693147, abs=1e-6)
    assert summary["rows"] == 24 and not summary["exportable"]
    lines = list(log.read(run.metrics))
    assert lines[0]["loss"] == pytest.approx(0.693147, abs=1e-6)
    assert summary["trainable_params"] % 32 == 0
    page = run.report.read_text(encoding="utf-8")
    assert "gets the higher score in 100" in page and "Score of worse answers" in page
    assert "fledge reward score 0001" in page and "fledge eval" not in page and "fledge export" not in page
    notes = yaml.safe_load(run.knobs.read_text(encoding="utf-8"))["notes"]
    assert "48 answers are scored, each where its turn has ended" in notes


@pytest.mark.parametrize("options", [[], ["train.dora=true"], ["train.top_layers=1"]], ids=["fast", "plain", "top"])
def test_an_interrupted_run_goes_on_bit_by_bit(options: list[str], tmp_path: Path) -> None:
    project = save_pairs(tmp_path / "project", epochs=3)
    tune(project, load_config(project, options))

    def killed(step: Any) -> None:
        if step.step == 5:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        tune(project, load_config(project, options), listener=Listener(step=killed))
    whole, cut = list_runs(project)
    resume(project, cut)
    adapters = [(run.adapter / "adapter_model.safetensors").read_bytes() for run in (whole, cut)]
    assert adapters[0] == adapters[1]
    strip = [[{k: v for k, v in line.items() if k != "seconds"} for line in log.read(r.metrics)] for r in (whole, cut)]
    assert strip[0] == strip[1]


def test_transformers_and_peft_give_the_same_scores(taught: Path, tmp_path: Path) -> None:
    [run] = list_runs(taught)
    base = AutoModelForSequenceClassification.from_pretrained(taught / "model", num_labels=1, dtype=torch.float32)
    network = PeftModel.from_pretrained(base, run.adapter).eval()
    network.config.pad_token_id = None
    judge = Judge(taught, run)
    scores = score_file(judge, Path("data/eval.jsonl"), load_config(taught), project=taught)
    lesson = prepare(taught, load_config(taught)).held_out
    with torch.no_grad():
        # What is scored ends with the token that ends the turn; behind it stands its copy, which nobody reads.
        theirs = [float(network(input_ids=torch.tensor([e.ids[:-1]])).logits[0, 0]) for e in lesson.examples]
    ours = [value for own in scores.values for value in own]
    assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-4)
    assert max(theirs) - min(theirs) > 1


def test_answers_of_every_kind_are_scored(taught: Path, tmp_path: Path) -> None:
    config, judge = load_config(taught), Judge(taught, find_run(taught, "latest"))
    scores = score_file(judge, Path("data/eval.jsonl"), config, project=taught)
    told = as_json(judge, scores, Path("data/eval.jsonl"), tmp_path / "out.jsonl")
    assert (told["rows"], told["pairs"], told["accuracy"]) == (8, 8, 1.0)
    assert 0.6 < told["interval"][0] < 1 and told["margin"] > 1
    write_scores(scores, tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines[0]["origin"].endswith("eval.jsonl:1") and all(line["chosen"] > line["rejected"] for line in lines)
    single = tmp_path / "single.jsonl"
    single.write_text('{"question": "The dog 100?", "answer": "the fox"}\n{"question": "a?", "answer": "an add 7"}\n')
    scores = score_file(judge, single, Config(), project=taught)
    assert scores.won() is None and scores.values[0][0] > scores.values[1][0] + 1
    votes = tmp_path / "votes.jsonl"
    votes.write_text('{"prompt": "a?", "completion": "the fox", "label": true}\n')
    [line] = score_file(judge, votes, Config(), project=taught).lines()
    assert line.keys() == {"origin", "score", "good"}


def test_it_is_a_reward(taught: Path) -> None:
    config = load_config(taught)
    for spec in ("model:latest", "model:1", f"model:{list_runs(taught)[0].path}"):
        with open_rewards([spec], config, project=taught) as rewards:
            good, bad = (rewards[0].score(Sample("The dog 100?", reply, "")) for reply in ("the fox", "the dog"))
            assert rewards[0].name == spec and good > bad + 1
    judge = Judge(taught, find_run(taught, "latest"))
    before = (Message("user", "add"), Message("assistant", "13"), Message("user", "The dog 100?"))
    asked = Sample("The dog 100?", "the fox", "")
    [alone, within] = judge.worth([asked, Sample("The dog 100?", "the fox", "", messages=before)])
    assert alone != within, "what was said before counts"
    trial = try_on_project(["model:latest"], config, Options(samples=0), project=taught)
    assert trial.verdict.value == "usable" and trial.rewards[0].good > trial.rewards[0].bad + 1


def test_a_reply_that_is_too_long_keeps_no_other_from_being_judged(taught: Path) -> None:
    with open_rewards(["model:latest"], load_config(taught), project=taught) as rewards:
        samples = [Sample("a?", "the fox", ""), Sample("a?", "dog " * 400, ""), Sample("a?", "the dog", "")]
        found = list(rewards[0].score_all(samples))  # type: ignore[attr-defined]
    assert found[0] > found[2]
    assert found[1].code == "reward.failed" and "the model's context holds 256" in str(found[1])


def test_what_scores_gives_no_answers(taught: Path, tmp_path: Path) -> None:
    run = find_run(taught, "latest")
    said: list[str] = []
    for give in (
        lambda: export(open_run(taught, run), types=["f16"], with_adapter=False, out=tmp_path / "out"),
        lambda: merge_folder(open_run(taught, run), tmp_path / "merged"),
        lambda: serve_target(taught, "latest", say=said.append),
    ):
        with pytest.raises(ExportError, match="fledge reward score 1 FILE") as caught:
            give()
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="one of them scores answers"):
        combine_runs(taught, [run, run], Recipe("linear", (0.5, 0.5), 0.5, None))
    assert not said, "no export is announced that cannot be made"
    assert not list(tmp_path.iterdir()) and len(list_runs(taught)) == 1


def test_a_run_that_judges_nothing_is_told(taught: Path, tmp_path: Path) -> None:
    project = save_project(tmp_path / "project", epochs=1)
    tune(project, load_config(project))
    cut = project / "runs" / "0002-reward-model"
    cut.mkdir()
    for spec, what in (
        ("model:1", "was taught sft and scores nothing"),
        ("model:2", "not finished"),
        ("model:3", "no run '3'"),
        ("model:latest", "no finished run scores answers"),
    ):
        with (
            pytest.raises(RunError, match=what) as caught,
            open_rewards([spec], load_config(project), project=project),
        ):
            pass
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="model:RUN"), open_rewards(["model"], Config(), project=project):
        pass


def test_rows_without_pairs_are_refused(taught: Path, tmp_path: Path) -> None:
    project = save_project(tmp_path / "project")
    with pytest.raises(DataError, match="no pairs of a better and a worse answer") as caught:
        prepare(project, load_config(project, ["objective=reward"]))
    assert "\n" not in str(caught.value) and "train.jsonl" in caught.value.where
    same = {"prompt": "a?", "chosen": "b", "rejected": "b"}
    (project / "data/train.jsonl").write_text(json.dumps(same) + "\n")
    with pytest.raises(DataError, match="are the same"):
        prepare(project, load_config(project, ["objective=reward"]))
    pairs = save_pairs(tmp_path / "pairs")
    with pytest.raises(ConfigError, match="exclude each other"):
        prepare(pairs, load_config(pairs, ["train.after_prompt=true"]))
    with pytest.raises(ConfigError, match="learns an adapter and a head"):
        prepare(pairs, load_config(pairs, ["method=full", "train.rank=auto"]))
    text = tmp_path / "notes.txt"
    text.write_text("A text that answers nothing at all.\n")
    with pytest.raises(FledgeError, match="no row has an answer to score"):
        score_file(Judge(taught, find_run(taught, "latest")), text, Config(), project=taught)


def test_a_forecast_of_it(tmp_path: Path) -> None:
    project = save_pairs(tmp_path / "project")
    told = forecast(project, load_config(project), say=lambda _: None)
    assert all(check["ok"] for check in told["checks"]), told["checks"]
    assert not list_runs(project)


def test_the_command(taught: Path) -> None:
    def call(*words: str) -> tuple[int, Any, str]:
        command = [sys.executable, "-m", "fledge", "reward", "score", *words, "-C", str(taught), "--json"]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.returncode, json.loads(done.stdout), done.stderr

    code, told, words = call("latest", "data/eval.jsonl")
    assert code == 0, words
    assert told.keys() >= {"run", "file", "rows", "pairs", "accuracy", "interval", "margin", "mean", "rows_file"}
    assert (told["accuracy"], told["rows"]) == (1.0, 8)
    lines = Path(told["rows_file"]).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["chosen"] > json.loads(line)["rejected"] for line in lines] == [True] * 8
    for wrong, code_of_error in ((("latest", "data/evil.jsonl"), "data.not_found"), (("9", "x"), "run.not_found")):
        code, told, words = call(*wrong)
        assert (code, told["error"]["code"], words.count("\n")) == (2, code_of_error, 1), words


def test_replies_are_learnt_from_what_a_model_thinks_of_them(taught: Path, tmp_path: Path) -> None:
    """The newest judge is meant by `latest`, not the run that learns from it."""
    project = tmp_path / "project"
    shutil.copytree(taught, project)
    rl = ["rl.rewards=model:latest", "rl.group=4", "rl.max_tokens=6", "train.epochs=1", "train.rows_per_step=4"]
    asked = "".join(json.dumps({"prompt": pair(n)["prompt"], "answer": "the fox"}) + "\n" for n in range(8))
    (project / "data/asked.jsonl").write_text(asked, encoding="utf-8")
    knobs = ["objective=ppo", "data.train=data/asked.jsonl", "data.eval=none", *rl]
    tune(project, load_config(project, knobs))
    run = list_runs(project)[-1]
    [first, *_] = list_runs(project)
    assert f"model:{first.path.name}" in run.knobs.read_text(encoding="utf-8"), "who judges is part of the run"
    replies = [json.loads(line) for path in (run.path / "rollouts").iterdir() for line in path.read_text().splitlines()]
    judge = Judge(project, find_run(project, "1"))
    for reply in replies:
        prompt = (Message("user", reply["prompt"]),)
        [worth] = judge.worth([Sample(reply["prompt"], reply["text"], "", messages=prompt)])
        assert reply["reward"] == pytest.approx(worth, rel=1e-4, abs=1e-4)
    assert len(replies) == 32 and len({reply["reward"] for reply in replies}) > 4
