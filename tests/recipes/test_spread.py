"""What a run keeps of how its rows are spread, and the bars that its report draws of it."""

from __future__ import annotations

import re

from fledge.recipes.spread import SHOWN, pictures_of, spread_of
from fledge.records import Conversation, Example, Message


def row(answer: str, number: int) -> Conversation:
    return Conversation((Message("user", f"Q{number}?"), Message("assistant", answer)), f"r:{number}")


def example(prompt: int, answer: int, task: str = "") -> Example:
    return Example([1] * (prompt + answer), [0.0] * prompt + [1.0] * answer, "", task=task)


def test_every_row_is_in_one_bin_of_each_histogram() -> None:
    examples = [example(10 + n % 7, 1 + n * n % 50, "a" if n % 3 else "b<") for n in range(90)]
    spread = spread_of([], examples)
    for key, sizes in (("prompt", [10 + n % 7 for n in range(90)]), ("answer", [1 + n * n % 50 for n in range(90)])):
        assert sum(each["rows"] for each in spread[key]) == 90
        for each in spread[key]:
            assert each["rows"] == sum(each["from"] <= size <= each["to"] for size in sizes)
    assert spread["tasks"] == {"a": 60, "b<": 30}
    drawn = pictures_of(spread)
    assert "b&lt;" in drawn and "60 rows" in drawn and 'width="100%"' in drawn
    assert re.search(r'b&lt;</span><svg.*?width="50%"', drawn)


def test_classes_are_told_where_answers_are_few_and_short() -> None:
    labels = [row(["spam", "ham", "ham"][n % 3], n) for n in range(60)]
    assert spread_of(labels, [])["classes"] == {"ham": 40, "spam": 20}
    assert (
        spread_of([*labels, row("a sentence that is far too long to be the name of anything", 99)], [])["classes"] == {}
    )
    assert spread_of([row(f"answer {n}", n) for n in range(60)], [])["classes"] == {}
    assert spread_of([row("ham", n) for n in range(60)], [])["classes"] == {}


def test_of_many_classes_the_most_frequent_are_drawn_and_the_rest_counted() -> None:
    drawn = pictures_of({"classes": {f"class {n}": 40 - n for n in range(SHOWN + 5)}})
    assert drawn.count("<svg") == SHOWN
    assert "and 5 more" in drawn
    assert pictures_of({}) == ""
