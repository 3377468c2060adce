"""Which of several ways is advised: the easiest that none is measurably better than."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from fledge.advise.trial import Difference, Tried, advise
from fledge.evaluation.verdict import Outcome, compare


def difference(before: Sequence[bool], after: Sequence[bool]) -> Difference:
    found = compare(before, after)
    return Difference(found.outcome is Outcome.BETTER, found.outcome is Outcome.TOO_FEW_ROWS, found.p_value)


def tried(arm: str, right: int, rows: int = 50) -> Tried:
    return Tried(arm, tuple(i < right for i in range(rows)), 1.0, 100.0)


@pytest.mark.parametrize(
    ("right", "expected", "words"),
    [
        ({"prompt": 45, "few_shot": 46, "rag": 45, "tuned": 46, "tuned_rag": 46}, "prompt", "Don't train"),
        ({"prompt": 10, "few_shot": 44, "rag": 20, "tuned": 46, "tuned_rag": 46}, "few_shot", "Don't train"),
        ({"prompt": 10, "few_shot": 12, "rag": 45, "tuned": 20, "tuned_rag": 46}, "rag", "Don't train: retrieval"),
        ({"prompt": 0, "few_shot": 5, "rag": 8, "tuned": 48, "tuned_rag": 47}, "tuned", "Train: training"),
        ({"prompt": 0, "few_shot": 5, "rag": 20, "tuned": 25, "tuned_rag": 46}, "tuned_rag", "Train: training and"),
        ({"prompt": 0, "few_shot": 1, "rag": 2, "tuned": 12, "tuned_rag": 13}, "tuned", "None is good enough"),
    ],
)
def test_the_easiest_that_none_beats_is_advised(right: dict[str, int], expected: str, words: str) -> None:
    advice = advise([tried(arm, count) for arm, count in right.items()], difference)
    assert advice.arm == expected and advice.words.startswith(words), advice
    assert f"{right[expected] / 50:.0%}" in advice.why


def test_few_rows_are_said_to_be_few() -> None:
    advice = advise([tried("prompt", 3, rows=5), tried("tuned", 5, rows=5)], difference)
    assert advice.arm == "prompt" and "with so few rows is not measurably better" in advice.why


def test_the_order_in_which_arms_were_tried_does_not_matter() -> None:
    arms = [tried("tuned", 40), tried("prompt", 41), tried("rag", 42)]
    assert advise(arms, difference) == advise(arms[::-1], difference)
    assert advise(arms, difference).arm == "prompt"
