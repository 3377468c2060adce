"""Figures and verdicts of each task: they add up to the whole, and a task that got worse is named."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from fledge.evaluation.by_task import compare_by_task, figures_by_task, tasks_that_got_worse, words_on_tasks
from fledge.evaluation.scorers import Template
from fledge.evaluation.tasks import Evaluation, evaluate
from fledge.evaluation.verdict import ALPHA
from fledge.records import Conversation, FinishReason, Message, Reply

Answers = dict[str, list[bool]]


def evaluation(answers: Answers) -> Evaluation:
    """Ask rows of some tasks; each is answered rightly or not, as `answers` says."""
    rows = [
        Conversation((Message("user", f"{task} {n}"), Message("assistant", "yes")), f"{task}:{n}", task=task)
        for task, given in answers.items()
        for n in range(len(given))
    ]
    said = iter("yes" if right else "no" for given in answers.values() for right in given)

    def ask(conversations: object) -> list[Reply]:
        return [Reply(next(said), FinishReason.STOP, 9, 3, 1.0, 0.1) for _ in rows]

    return evaluate(rows, ask, scorer="exact", template=Template("yes|maybe"))


def test_the_figures_of_tasks_add_up_to_the_whole() -> None:
    got = evaluation({"b.jsonl": [True] * 6 + [False] * 2, "a.jsonl": [False] * 4})
    tasks = figures_by_task(got)
    assert [task.task for task in tasks] == ["b.jsonl", "a.jsonl"], "in the order of the rows"
    assert [(task.rows, task.accuracy, task.template_adherence, task.stopped) for task in tasks] == [
        (8, 0.75, 0.75, 1.0),
        (4, 0.0, 0.0, 1.0),
    ]
    assert got.accuracy == pytest.approx(sum(task.rows * task.accuracy for task in tasks) / 12)
    for task in tasks:
        assert task.interval[0] <= task.accuracy <= task.interval[1]
    assert tasks[1].interval[1] > got.interval[1] - 0.35, "fewer rows, a wider interval"


def test_rows_of_one_source_have_one_figure_that_is_the_whole() -> None:
    got = evaluation({"": [True, False, True]})
    [only] = figures_by_task(got)
    assert (only.accuracy, only.interval, only.stopped) == (got.accuracy, got.interval, got.stopped)


def test_a_task_that_got_worse_is_named_and_one_that_did_not_is_not() -> None:
    before = evaluation({"facts": [False] * 40, "poems": [True] * 20, "code": [True] * 20})
    after = evaluation({"facts": [True] * 40, "poems": [False] * 15 + [True] * 5, "code": [True] * 19 + [False]})
    verdicts = compare_by_task(before, after)
    assert tasks_that_got_worse(verdicts) == ["poems"]
    assert words_on_tasks(verdicts) == "Got worse: poems (75 points on 20 rows)."
    assert words_on_tasks(compare_by_task(before, before)) == ""
    assert words_on_tasks({"poems": verdicts["poems"]}) == "", "of one task the verdict itself tells"


def test_many_tasks_to_which_nothing_happened_raise_few_alarms() -> None:
    """Twenty tasks on which both models are right half the time: a bare p < 0.05 would name one in most of the runs."""
    numbers, alarms, bare = random.Random(3), 0, 0
    for _ in range(100):
        sides = [{f"t{t}": [numbers.random() < 0.5 for _ in range(40)] for t in range(20)} for _ in range(2)]
        verdicts = compare_by_task(evaluation(sides[0]), evaluation(sides[1]))
        alarms += bool(tasks_that_got_worse(verdicts))
        bare += any(v.p_value < ALPHA and v.difference < 0 for v in verdicts.values())
    assert alarms <= 8
    assert bare > 20


def test_each_task_may_have_its_scorer() -> None:
    rows = [
        Conversation((Message("user", "1"), Message("assistant", "It is 4.")), "a:1", answer="4", task="a"),
        Conversation((Message("user", "2"), Message("assistant", "spam")), "b:1", task="b"),
    ]

    def ask(conversations: object) -> list[Reply]:
        return [Reply(text, FinishReason.STOP, 9, 3, 1.0, 0.1) for text in ("4", "spam")]

    got = evaluate(rows, ask, scorer={"a": "number", "b": "exact"})
    assert (got.accuracy, got.scorer) == (1.0, "number, exact")
    assert (
        evaluate([replace(row, task="a") for row in rows[:1]], lambda _: ask(0)[:1], scorer={"a": "exact"}).accuracy
        == 0
    )
