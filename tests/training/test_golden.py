"""The loss of every step of a fixed run. A refactor leaves it as it is."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fledge.config import PreferenceConfig, RlConfig
from fledge.data.course import plain
from fledge.data.ends import read_at_end
from fledge.data.mismatched import mismatched
from fledge.data.wanted import LEARNS_FROM, UNITS
from fledge.objective import OBJECTIVES
from fledge.records import Example
from fledge.training.batch import batches
from fledge.training.loop import Plan, fit
from fledge.training.optim import Schedule, adamw
from tiny import load_tiny, random_examples, save_tiny_model

GOLDEN = Path(__file__).parents[1] / "golden"
REGENERATE = "REGENERATE_GOLDEN"
STEPS = 12


@pytest.fixture
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


KNOBS = PreferenceConfig(beta=0.05, good_weight=1.0, bad_weight=1.5, sft_weight=0.1).model_dump()
KNOBS |= RlConfig(kl_weight=0.01, max_tokens=20).model_dump()
# Objectives that are one function under two names are recorded once, under the first.
DISTINCT = {aim: name for name, aim in reversed(OBJECTIVES.items())}.values()


def rows_of(name: str) -> tuple[list[Example], list[Example]]:
    """Return what 32 rows of the objective are, and what it sets aside."""
    examples = random_examples(32 * UNITS[LEARNS_FROM[name]])
    if LEARNS_FROM[name] == "answers":
        return examples, []
    if LEARNS_FROM[name] == "prompts":
        # As if they had been drawn when each token was as likely as any other, every second reply being a good one.
        tokens = [{name: [-6.0] * e.num_taught for name in ("sampled", "old", "reference")} for e in examples]
        signs = [{"advantage": 1.0 - 2 * (i % 2)} for i in range(len(examples))]
        if OBJECTIVES[name].critic:
            for own, e, sign in zip(tokens, examples, signs, strict=True):
                count, worth = e.num_taught, sign["advantage"]
                own |= {"advantage": [worth] * count, "return": [worth] * count, "value": [0.0] * count}
        return [replace(e, columns=c, tokens=t) for e, c, t in zip(examples, signs, tokens, strict=True)], []
    if OBJECTIVES[name].judges:
        return [read_at_end(e) for e in examples], []
    columns = [{"reference": -7.3 * e.num_taught, "label": float(i % 3 == 0)} for i, e in enumerate(examples)]
    examples = [replace(e, columns=own) for e, own in zip(examples, columns, strict=True)]
    return examples, mismatched(examples, limit=64) if LEARNS_FROM[name] == "judged" else []


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("name", DISTINCT)
def test_the_losses_are_the_recorded_ones(name: str, tmp_path: Path) -> None:
    model = load_tiny(save_tiny_model(tmp_path / "model"))
    parameters = model.parameters()
    if OBJECTIVES[name].judges or OBJECTIVES[name].critic:
        parameters["score"] = model.add_scalar_head()
    optimizer = adamw(parameters, weight_decay=0.01)
    plan = Plan(STEPS, 0, Schedule(1e-2, STEPS, 0.1), 1.0, 1e9, lambda step: None)
    course = plain(32, seed=0)
    aim = OBJECTIVES[name]
    examples, aside = rows_of(name)
    stream = batches(
        examples,
        rows_per_step=8,
        tokens_per_piece=100,
        course=course,
        first_step=0,
        steps=STEPS,
        unit=UNITS[LEARNS_FROM[name]],
        aside=aside,
    )
    plan = replace(plan, before=aim.before(KNOBS))
    losses = [step.loss for step in fit(model, stream, aim.make(KNOBS), optimizer, plan)]
    path = GOLDEN / f"{name}.json"
    if os.environ.get(REGENERATE):
        path.write_text(json.dumps({"losses": losses}, indent=2) + "\n", encoding="utf-8")
    recorded = json.loads(path.read_text(encoding="utf-8"))["losses"]
    advice = f"if the change is meant, run with {REGENERATE}=1 and say in the commit why the numbers move"
    assert losses == pytest.approx(recorded, abs=1e-5), advice
    assert losses[-1] < losses[0] - 0.1, "it learns"
