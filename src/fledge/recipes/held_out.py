"""The loss of the held-out rows, as a whole and of each task, and what a run's summary says of its tasks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fledge.config import Config
from fledge.data.course import Course
from fledge.model.causal import CausalModel
from fledge.recipes.once import places_of, remember
from fledge.recipes.prepare import Lesson
from fledge.records import Example
from fledge.training.aims import before_of, compares, objective_of
from fledge.training.batch import to_batch
from fledge.training.score import measured


@dataclass(frozen=True)
class Measured:
    """What held-out rows tell of a model: its loss on all and on each task, and what else the objective tells.

    loss: in nats per taught token where answers or texts are learnt, else a mean over rows; None without rows.
    """

    loss: float | None
    losses: Mapping[str, float]
    metrics: Mapping[str, float]


def measure(model: CausalModel, held_out: Lesson, config: Config, *, max_tokens: int) -> Measured:
    """Return what the objective makes of the held-out rows.

    `max_tokens`: the largest piece that memory was planned for; held-out rows take no more at once.
    """
    train, objective, before = config.train, objective_of(config), before_of(config)
    assert train.tokens_per_piece != "auto"
    size, trunk = min(train.tokens_per_piece, max_tokens), model.has_trunks
    tasks: dict[str, list[int]] = {}
    for row, example in enumerate(held_out.rows):
        tasks.setdefault(example.task, []).append(row)
    found: dict[str, tuple[float, dict[str, float]]] = {}
    weights: dict[str, float] = {}
    for task, rows in tasks.items():
        own = [held_out.examples[row * held_out.unit + part] for row in rows for part in range(held_out.unit)]
        # Held-out rows have prompts of their own to remember; lower layers are computed with the rest here.
        memory = remember(model, train, places_of(train, own)) if train.after_prompt else None
        numbers = range(len(own))
        batch = to_batch(own, tokens_per_piece=size, trunk=trunk, memory=memory, numbers=numbers, unit=held_out.unit)
        if held_out.aside:
            beside = [held_out.aside[row] for row in rows]
            batch = replace(batch, aside=to_batch(beside, tokens_per_piece=size, trunk=trunk))
        found[task] = measured(model, batch, objective, before)
        weights[task] = batch.num_rows if compares(config) else batch.weight
    if not found:
        return Measured(None, {}, {})
    losses = {task: loss for task, (loss, _) in found.items()}
    names = next(iter(found.values()))[1]
    metrics = {name: _whole({task: told[name] for task, (_, told) in found.items()}, weights) for name in names}
    return Measured(_whole(losses, weights), losses, metrics)


def _whole(values: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Return the weighted mean over tasks; of one task, its value to the last bit."""
    if len(values) == 1:
        return next(iter(values.values()))
    return math.fsum(values[task] * weights[task] for task in values) / math.fsum(weights.values())


def summary_of_tasks(course: Course, held_out: Sequence[Example], losses: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return what a run's summary says of each task, those that are only measured included."""
    measured = Counter(example.task for example in held_out)
    learnt = {task.name: task for task in course.tasks}
    return [
        {
            "task": name,
            "rows": len(learnt[name].rows) if name in learnt else 0,
            "times": learnt[name].times if name in learnt else 0.0,
            "rows_per_epoch": learnt[name].rows_per_epoch if name in learnt else 0,
            "eval_rows": measured[name],
            "eval_loss": losses.get(name),
        }
        for name in dict.fromkeys((*learnt, *measured))
    ]
