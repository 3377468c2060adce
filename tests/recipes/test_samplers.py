"""Both ways to sample draw from one distribution: what llama.cpp tells of its tokens is what the trainer computes."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import pytest
import yaml
from test_rollouts import save_rl

from fledge.config_file import load_config
from fledge.errors import ConfigError
from fledge.project import RunFolder
from fledge.recipes.rollouts import rollout_plan
from fledge.recipes.samplers import MAKERS, choose_sampler, drawing_of
from fledge.recipes.setup import Setup, build, prepare
from fledge.records import Example
from fledge.training.score import token_logps
from tiny import wake

ASKED = [(place, 10 * place + turn) for place in range(3) for turn in range(4)]


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory, starter_gguf: Path) -> Setup:
    project = tmp_path_factory.mktemp("samplers") / "project"
    project.mkdir()
    rows = "".join(json.dumps({"prompt": f"What is {n} + 2?", "answer": str(n + 2)}) + "\n" for n in range(3))
    (project / "rows.jsonl").write_text(rows, encoding="utf-8")
    config = {
        "objective": "grpo",
        "data": {"train": "rows.jsonl", "eval": "none"},
        "train": {"dtype": "float32", "rank": 4, "rows_per_step": 3},
        "rl": {"max_tokens": 12, "group": 4},
    }
    (project / "fledge.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return prepare(project, load_config(project))


@pytest.mark.slow
def test_log_probabilities_of_both_agree_with_the_trainer(setup: Setup) -> None:
    model, _, _ = build(setup)
    wake(model)
    plan = rollout_plan(setup)
    prompts = [list(ids) for ids in plan.prompts]
    # An adapter that is away from zero says little that makes sense; drawn are both ends and what goes on.
    for who, near in (("torch", 1e-3), ("llama", 0.1)):
        replies = MAKERS[who](model, setup, drawing_of(setup, temperature=1.0))(prompts, ASKED)
        examples = [
            Example(prompts[place] + reply.ids, [0.0] * len(prompts[place]) + [1.0] * len(reply.ids), "")
            for (place, _), reply in zip(ASKED, replies, strict=True)
        ]
        found = token_logps(model, examples, tokens_per_piece=512)
        apart = [abs(a - b) for own, r in zip(found, replies, strict=True) for a, b in zip(own, r.logps, strict=True)]
        print(f"{who}: {fmean(apart):.5f} apart in the mean, {max(apart):.4f} at most")
        assert fmean(apart) < near
        assert all(len(r.ids) == 12 or r.ended for r in replies)
        assert all(r.ended == (r.ids[-1] in setup.lesson.ends) for r in replies)
    with model.disabled():
        without = token_logps(model, examples, tokens_per_piece=512)
    apart = [abs(a - b) for own, r in zip(without, replies, strict=True) for a, b in zip(own, r.logps, strict=True)]
    assert fmean(apart) > 0.15, "negative control: it is the adapter's distribution that llama.cpp draws from"


@pytest.mark.slow
def test_the_faster_is_found_and_kept(setup: Setup, tmp_path: Path) -> None:
    model, _, _ = build(setup)
    run = RunFolder(tmp_path / "0001-grpo")
    run.path.mkdir()
    run.knobs.write_text("notes: []\n", encoding="utf-8")
    said: list[str] = []
    who = choose_sampler(setup, model, rollout_plan(setup), run, say=said.append)
    kept = yaml.safe_load(run.knobs.read_text(encoding="utf-8"))
    rates = kept["sampler"]["tokens_per_s"]
    assert who == kept["sampler"]["who"] == max(rates, key=rates.get)
    assert said == kept["notes"] and said[0].startswith(f"rl.sampler = {who}: ")
    # Whoever goes on takes the same, whatever is faster by then.
    other = "llama" if who == "torch" else "torch"
    kept["sampler"]["who"] = other
    run.knobs.write_text(yaml.safe_dump(kept), encoding="utf-8")
    assert choose_sampler(setup, model, rollout_plan(setup), run, say=said.append) == other
    assert len(said) == 1


def test_llama_cpp_is_refused_where_it_cannot_sample(tmp_path: Path) -> None:
    project = save_rl(tmp_path / "project")
    found = prepare(project, load_config(project, ["rl.sampler=llama"]))
    model, _, _ = build(found)
    with pytest.raises(ConfigError, match="the base is no .gguf file"):
        choose_sampler(found, model, rollout_plan(found), None, say=lambda _: None)
