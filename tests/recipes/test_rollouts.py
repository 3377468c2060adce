"""Runs that learn from rewards: they learn, go on bit by bit from what they have kept, and say what is wrong."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from fledge.config_file import load_config
from fledge.errors import ConfigError, DataError, FledgeError, RewardError, RunError
from fledge.project import RunFolder, list_runs
from fledge.recipes.forecast import forecast
from fledge.recipes.setup import prepare
from fledge.recipes.tries import last_replies
from fledge.recipes.tune import Listener, resume, tune
from fledge.records import Conversation, Message
from fledge.training import log
from fledge.training.ranks import Ranks
from tiny import save_project

TIMEOUT_S = 120
REWARD = "def reward_vowels(reply):\n    return sum(letter in 'aeiou' for letter in reply) / 4\n"
TRAINER = """
import sys
from pathlib import Path
from fledge.config_file import load_config
from fledge.project import list_runs
from fledge.recipes.tune import Listener, resume, tune

project = Path(sys.argv[1])
listener = Listener(step=lambda done: print(done.step, flush=True))
runs = list_runs(project)
resume(project, runs[-1], listener=listener) if runs else tune(project, load_config(project), listener=listener)
"""


def save_rl(folder: Path, reward: str = REWARD, *, rl: dict[str, Any] | None = None, **train: Any) -> Path:
    """Save a project that is rewarded for vowels: 16 prompts to learn from and 4 held out, 16 steps of 4 prompts."""
    project = save_project(folder, **{"rows_per_step": 4, "epochs": 4, "lr": 1e-1, "tokens_per_piece": 96} | train)
    for name, count in (("train", 16), ("eval", 4)):
        rows = [{"prompt": f"The {('dog', 'fox', 'add')[n % 3]} {n}?", "answer": str(n)} for n in range(count)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (project / f"data/{name}.jsonl").write_text(text, encoding="utf-8")
    (project / "rewards.py").write_text(reward, encoding="utf-8")
    config = yaml.safe_load((project / "fledge.yaml").read_text(encoding="utf-8"))
    config |= {"objective": "grpo", "data": {"eval": "data/eval.jsonl"}}
    config["rl"] = {"rewards": "rewards.py", "group": 6, "max_tokens": 8} | (rl or {})
    (project / "fledge.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return project


def result(run: RunFolder) -> tuple[bytes, list[dict[str, Any]], dict[str, bytes]]:
    """Return all that a run comes to: its adapter, what each step told, and its replies."""
    lines = [{k: v for k, v in line.items() if k != "seconds"} for line in log.read(run.metrics)]
    replies = {path.name: path.read_bytes() for path in sorted((run.path / "rollouts").iterdir())}
    return (run.adapter / "adapter_model.safetensors").read_bytes(), lines, replies


@pytest.mark.parametrize(
    ("objective", "rl"),
    [
        ("grpo", {}),
        ("grpo", {"loss": "dr_grpo", "updates": 2, "kl_weight": 0.01, "temperature": 0.9}),
        ("rloo", {"kl_weight": 0.01}),
        ("ppo", {"kl_weight": 0.01, "updates": 2, "gae_lambda": 1.0}),
    ],
)
def test_a_run_learns_what_is_rewarded_and_goes_on_bit_by_bit(
    objective: str, rl: dict[str, Any], tmp_path: Path
) -> None:
    project = save_rl(tmp_path / "project", rl=rl, dropout=0.05 if "loss" in rl else 0.0, epochs=6)
    config = load_config(project, [f"objective={objective}"])
    summary = tune(project, config)
    whole = list_runs(project)[0]
    adapter, lines, replies = result(whole)
    assert b"score.weight" not in adapter, "a critic is of use to its own run alone"
    updates = rl.get("updates", 1)
    assert len(lines) == 24 * updates and len(replies) == 24
    assert summary["reward_last"] > 1.25 * summary["reward_first"]
    assert summary["eval_metrics"]["reward"] > summary["eval_before"]["reward"] + 0.2
    first = lines[0]["metrics"]
    assert first["ratio"] == pytest.approx(1, abs=1e-4) and first["clipped"] == 0
    assert first["sampler_gap"] < 1e-3, "the sampler and the trainer compute the same"
    assert first["kl"] == pytest.approx(0, abs=1e-5) and lines[-1]["metrics"]["kl"] > 0.01
    if updates > 1:
        assert any(line["metrics"]["ratio"] != pytest.approx(1, abs=1e-3) for line in lines[1::2])
    page = whole.report.read_text(encoding="utf-8")
    assert "What did it try?" in page and "Batch 24" in page and 'id="reward"' in page

    def killed(step: Any) -> None:
        if step.step == 6 * updates - 1:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        tune(project, config, listener=Listener(step=killed))
    cut = list_runs(project)[1]
    # What was sampled for the step that is done again is taken from the folder: it would be the same, were it sampled
    # anew.
    kept = sorted((cut.path / "rollouts").iterdir())[-1]
    stamp = kept.stat().st_mtime_ns
    resume(project, cut)
    assert kept.stat().st_mtime_ns == stamp
    assert result(cut) == (adapter, lines, replies)


@pytest.mark.slow
def test_killed_three_times_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    wholes = save_rl(tmp_path / "whole")
    tune(wholes, load_config(wholes))
    project, numbers = save_rl(tmp_path / "killed"), random.Random(3)
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    for at_least in (2, 6, 11):
        command = [sys.executable, "-c", TRAINER, str(project)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            assert any(int(line) >= at_least for line in process.stdout)
            # Within so long the kill meets sampling, judging, learning and writing alike.
            time.sleep(numbers.uniform(0, 0.1))
            process.send_signal(signal.SIGKILL)
            assert process.wait(TIMEOUT_S) == -signal.SIGKILL
    (run,) = list_runs(project)
    assert not run.finished
    resume(project, run)
    assert result(run) == result(list_runs(wholes)[0])


def test_kept_replies_are_what_is_learnt_from(tmp_path: Path) -> None:
    """Whatever made them: a reply that stands in the folder is taken as it stands."""
    project = save_rl(tmp_path / "project")

    def killed(step: Any) -> None:
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        tune(project, load_config(project), listener=Listener(step=killed))
    (run,) = list_runs(project)
    path = run.path / "rollouts" / "step-000001.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    lines[0]["reward"] = 100.0
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    resume(project, run)
    assert next(log.read(run.metrics))["metrics"]["reward"] > 4
    # What a crash or a disk has torn is sampled anew.
    other = save_rl(tmp_path / "other")
    with pytest.raises(RuntimeError, match="killed"):
        tune(other, load_config(other), listener=Listener(step=killed))
    (torn,) = list_runs(other)
    (torn.path / "rollouts" / "step-000001.jsonl").write_text('{"row": 3, "ids"', encoding="utf-8")
    resume(other, torn)
    assert next(log.read(torn.metrics))["metrics"]["reward"] < 4


def test_a_reward_that_fails_in_the_middle_loses_nothing(tmp_path: Path) -> None:
    counting = "import os\ncalls = 0\ndef reward_vowels(reply):\n    global calls\n    calls += 1\n"
    fault = counting + "    if calls > 100: raise KeyError('x')\n" + REWARD.split("\n", 1)[1]
    project = save_rl(tmp_path / "project", fault, checkpoint_s=1000)
    with pytest.raises(RewardError, match="KeyError") as caught:
        tune(project, load_config(project))
    assert "\n" not in str(caught.value) and "rewards.py:6" in caught.value.where
    assert "fledge train --resume latest" in caught.value.remedy
    (run,) = list_runs(project)
    assert not run.finished and [p.name for p in run.checkpoints.iterdir()] == ["step-000004"]
    (project / "rewards.py").write_text(REWARD, encoding="utf-8")
    said: list[str] = []
    resume(project, run, listener=Listener(say=said.append))
    assert "goes on after step 4 of 16" in said
    whole = save_rl(tmp_path / "whole")
    tune(whole, load_config(whole))
    assert result(run) == result(list_runs(whole)[0])


@pytest.mark.parametrize(
    ("reward", "code", "said"),
    [
        ("def reward_same(reply):\n    return 0.5\n", "reward.never_varies", "mean 0.5"),
        ("def reward_x(reply):\n    return float('nan')\n", "reward.failed", "nan"),
        ("def reward_x(reply):\n    while True: pass\n", "reward.failed", "nothing within"),
        ("def reward_x(reply)\n", "reward.broken", "not valid Python"),
    ],
)
def test_rewards_that_teach_nothing_are_refused_in_one_line(
    reward: str, code: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = save_rl(tmp_path / "project", reward)
    with pytest.raises(FledgeError, match=said) as caught:
        tune(project, load_config(project))
    assert caught.value.code == code and "\n" not in str(caught.value)
    # What can't be used leaves nothing behind; where samples show it, they can be looked at.
    kept = project / "runs" / "0001-grpo-model" / "rollouts" / "step-000001.jsonl"
    assert (project / "runs").exists() == (code != "reward.broken")
    assert kept.exists() == (code == "reward.never_varies")


def test_rows_and_knobs_that_do_not_fit_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = save_rl(tmp_path / "project")
    bare = project / "data/bare.jsonl"
    bare.write_text('{"prompt": "a?"}\n{"prompt": "b?"}\n', encoding="utf-8")
    knobs = ["data.train=data/bare.jsonl", "data.eval=none"]
    with pytest.raises(RewardError, match="no answer, which 'number' needs") as caught:
        tune(project, load_config(project, [*knobs, "rl.rewards=number"]))
    assert "bare.jsonl:1" in str(caught.value)
    with pytest.raises(ConfigError, match="nothing says what a reply is worth"):
        prepare(project, load_config(project, [*knobs, "rl.rewards=auto"]))
    assert prepare(project, load_config(project, ["rl.rewards=auto"])).config.rl.rewards == "number"
    with pytest.raises(ConfigError, match="'numbr' is no reward; did you mean 'number'"):
        tune(project, load_config(project, ["rl.rewards=numbr"]))
    pairs = project / "data/pairs.jsonl"
    pairs.write_text('{"prompt": "a?", "chosen": "b", "rejected": "c"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="objective: dpo"):
        prepare(project, load_config(project, ["data.train=data/pairs.jsonl"]))
    with pytest.raises(ConfigError, match="exclude each other"):
        prepare(project, load_config(project, ["train.after_prompt=true"]))
    with pytest.raises(DataError, match="Lower rl.max_tokens"):
        prepare(project, load_config(project, ["train.max_tokens=8"]))
    with pytest.raises(RunError, match="no finished run scores answers"):
        prepare(project, load_config(project, ["rl.rewards=model:latest"]))
    monkeypatch.setattr(Ranks, "here", classmethod(lambda cls: cls(0, 2)))
    with pytest.raises(ConfigError, match="samples in one process"):
        tune(project, load_config(project))
    monkeypatch.undo()
    assert not (project / "runs").exists(), "nothing was begun"
    for wrong in ("rl.rewards={number: 0}", "rl.rewards=[]", "rl.group=1", "rl.temperature=0", "rl.loss=ppo"):
        with pytest.raises(ConfigError, match=wrong.partition("=")[0]):
            load_config(project, [wrong])
    notes = prepare(project, load_config(project, ["objective=rloo", "rl.loss=grpo", "preference.beta=1"])).notes
    assert "WARNING: preference.beta, rl.loss: says nothing to rloo" in notes
    assert any("generate.stop" in n for n in prepare(project, load_config(project, ["generate.stop=[END]"])).notes)


def test_several_rewards_are_weighed_and_told_one_by_one(tmp_path: Path) -> None:
    project = save_rl(tmp_path / "project", rl={"rewards": {"rewards.py": 2.0, "length:1-4": 0.5}})
    tune(project, load_config(project, ["train.epochs=1"]))
    (run,) = list_runs(project)
    for line in log.read(run.metrics):
        told = line["metrics"]
        wanted = 2.0 * told["reward_reward_vowels"] + 0.5 * told["reward_length:1-4"]
        assert told["reward"] == pytest.approx(wanted, abs=1e-6)


def test_what_an_export_is_held_against_is_what_the_model_said_last(tmp_path: Path) -> None:
    rows = [
        Conversation((Message("system", "s"), Message("user", f"{n}?"), Message("assistant", "x")), "") for n in "ab"
    ]
    run = RunFolder(tmp_path / "0001-grpo")
    assert last_replies(run, rows) == [], "another objective samples none"
    (run.path / "rollouts").mkdir(parents=True)
    for number, said in ((1, "early"), (2, "late")):
        lines = [
            {"prompt": "a?", "text": said, "ended": True},
            {"prompt": "a?", "text": said, "ended": True},
            {"prompt": "b?", "text": "cut o", "ended": False},
            {"prompt": "gone?", "text": said, "ended": True},
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (run.path / "rollouts" / f"step-{number:06d}.jsonl").write_text(text, encoding="utf-8")
    (found,) = last_replies(run, rows)
    assert found.messages == (*rows[0].messages[:2], Message("assistant", "late"))


def test_a_forecast_takes_real_steps_and_writes_nothing(tmp_path: Path) -> None:
    project = save_rl(tmp_path / "project")
    told = forecast(project, load_config(project), say=lambda _: None)
    assert told["forecast"]["seconds"] > 0 and all(check["ok"] for check in told["checks"])
    assert not (project / "runs").exists()


def test_other_ways_to_compute_them(tmp_path: Path) -> None:
    for knobs in (["train.dora=true"], ["train.top_layers=1"], ["train.tokens_per_piece=8"]):
        project = save_rl(tmp_path / knobs[0].replace("=", "-"))
        assert tune(project, load_config(project, [*knobs, "train.epochs=2"]))["steps"] == 8
