"""One figure a task beside the whole: what was learnt in one source may have cost another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fledge.evaluation.proportion import Interval, effective_rows, number_groups, wilson
from fledge.evaluation.tasks import Evaluation, RowResult
from fledge.evaluation.verdict import ALPHA, Verdict, compare


@dataclass(frozen=True)
class TaskFigures:
    """What a model answered to the rows of one task. Shares are 0..1; `interval` is the 95 % interval of `accuracy`."""

    task: str
    rows: int
    accuracy: float
    interval: Interval
    template_adherence: float | None
    stopped: float


def figures_by_task(evaluation: Evaluation) -> list[TaskFigures]:
    """Return the figures of each task, in the order in which tasks come up in the rows."""
    return [_figures(task, rows) for task, rows in _by_task(evaluation.rows).items()]


def compare_by_task(before: Evaluation, after: Evaluation) -> dict[str, Verdict]:
    """Return the paired verdict of each task: is `after` better on its rows?"""
    earlier = _by_task(before.rows)
    return {
        task: compare(
            [row.correct for row in earlier[task]], [row.correct for row in rows], groups=[row.group for row in rows]
        )
        for task, rows in _by_task(after.rows).items()
    }


def tasks_that_got_worse(verdicts: Mapping[str, Verdict]) -> list[str]:
    """Return the tasks that fell by more than chance explains, those looked at beside them taken into account.

    Of twenty tasks that nothing happened to, one falls below p = 0.05 by chance. Holm's correction (Scandinavian
    Journal of Statistics 6, 1979, 65-70) keeps the chance of a single false alarm at 0.05.
    """
    ranked = sorted(verdicts.items(), key=lambda item: item[1].p_value)
    worse = []
    for number, (task, verdict) in enumerate(ranked):
        if verdict.p_value * (len(ranked) - number) >= ALPHA:
            break
        if verdict.difference < 0:
            worse.append(task)
    return [task for task in verdicts if task in worse]


def words_on_tasks(verdicts: Mapping[str, Verdict]) -> str:
    """Return a sentence that names the tasks that got worse, or "" where none did or there is one task only."""
    worse = tasks_that_got_worse(verdicts) if len(verdicts) > 1 else []
    if not worse:
        return ""
    told = [
        f"{task} ({100 * abs(verdicts[task].difference):.0f} points on {verdicts[task].rows} rows)" for task in worse
    ]
    return f"Got worse: {', '.join(told)}."


def _by_task(rows: Sequence[RowResult]) -> dict[str, list[RowResult]]:
    found: dict[str, list[RowResult]] = {}
    for row in rows:
        found.setdefault(row.task, []).append(row)
    return found


def _figures(task: str, rows: Sequence[RowResult]) -> TaskFigures:
    correct_R = np.array([row.correct for row in rows], dtype=np.float64)
    accuracy = float(correct_R.mean())
    judged = [row.adheres for row in rows if row.adheres is not None]
    return TaskFigures(
        task=task,
        rows=len(rows),
        accuracy=accuracy,
        interval=wilson(accuracy, effective_rows(correct_R, number_groups([row.group for row in rows]))),
        template_adherence=sum(judged) / len(judged) if judged else None,
        stopped=sum(row.stopped for row in rows) / len(rows),
    )
