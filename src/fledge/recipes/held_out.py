"""The loss of the held-out rows, as a whole and of each task, and what a run's summary says of its tasks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fledge.config import TrainConfig
from fledge.data.course import Course
from fledge.model.causal import CausalModel
from fledge.recipes.once import places_of, remember
from fledge.records import Example
from fledge.training.score import mean_loss


def held_out_losses(
    model: CausalModel, examples: Sequence[Example], train: TrainConfig, *, max_tokens: int
) -> tuple[float | None, dict[str, float]]:
    """Return the mean loss of the held-out rows, in nats per taught token, and that of each task; None without rows.

    `max_tokens`: the largest piece that memory was planned for; held-out rows take no more at once.
    """
    assert train.tokens_per_piece != "auto"
    tasks: dict[str, list[Example]] = {}
    for example in examples:
        tasks.setdefault(example.task, []).append(example)
    losses, weights = {}, {}
    for task, own in tasks.items():
        # Held-out rows have prompts of their own to remember; lower layers are computed with the rest here.
        memory = remember(model, train, places_of(train, own)) if train.after_prompt else None
        size = min(train.tokens_per_piece, max_tokens)
        losses[task] = mean_loss(model, own, tokens_per_piece=size, trunk=model.has_trunks, memory=memory)
        weights[task] = math.fsum(w for example in own for w in example.weights if w > 0)
    if not losses:
        return None, {}
    whole = math.fsum(losses[task] * weights[task] for task in tasks) / math.fsum(weights.values())
    return next(iter(losses.values())) if len(losses) == 1 else whole, losses


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
