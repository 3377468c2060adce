"""Answers that somebody judged: what was found bad, or not judged at all, is never taught as good."""

from __future__ import annotations

from typing import Any

import pytest

from fledge.data.formats import Reading, read_records
from fledge.errors import DataError, Finding
from fledge.records import Conversation, Judged, Row


def rows_of(*labels: Any, column: str = "label", **more: Any) -> list[Row]:
    """Return rows with these labels; ... leaves the column out."""
    return [
        Row({"question": f"q{n}", "answer": f"a{n}", **({} if label is ... else {column: label}), **more}, f"r:{n}")
        for n, label in enumerate(labels)
    ]


def verdicts(reading: Reading) -> list[bool | None]:
    """Return what each row says: good, bad, or None where it is told as faulty."""
    found: list[bool | None] = []
    for one in reading.records:
        assert isinstance(one, Judged | Finding), "taught as if nobody had judged it"
        found.append(one.good if isinstance(one, Judged) else None)
    return found


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("up", "down"), ("correct", "incorrect"), ("\N{THUMBS UP SIGN}", "\N{THUMBS DOWN SIGN}\U0001f3fd"),
        ("thumbs_up", "thumbs_down"), ("Thumbs-Up", "thumbs down"), (True, False), (1, 0), (1, -1), (1.0, 0.0),
        ("1.0", "-1"), ("+1", "-1"), ("right", "wrong"), ("y", "n"), ("gut", "schlecht"), ("sí", "no"), ("да", "нет"),
        ("upvote", "downvote"), ("\N{WHITE HEAVY CHECK MARK}", "\N{CROSS MARK}"), ("helpful", "not_helpful"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("column", ["label", "vote", "feedback", "rating"])
def test_every_spelling_of_good_and_bad(good: object, bad: object, column: str) -> None:
    for rest in ([], [None], [""], [...], ["perhaps"]):
        reading = read_records(rows_of(good, bad, *rest, good, bad, column=column))
        assert reading.form == "judged"
        assert verdicts(reading) == [True, False, *(None for _ in rest), True, False]


def test_one_bad_answer_among_many_that_nobody_judged_is_not_taught() -> None:
    reading = read_records(rows_of(*[None] * 20, "down", *[...] * 20, column="vote"))
    found = list(reading.records)
    assert not any(isinstance(one, Conversation) for one in found)
    told = [one for one in found if isinstance(one, Finding)]
    assert len(told) == 40
    assert str(told[0]) == "r:0: 'vote' is empty. Use true or false, or remove the row."
    assert "label that says good or bad" in str(told[-1])


def test_the_first_to_judge_may_come_late_and_is_not_taught() -> None:
    """The form is decided by the first rows, in which nobody had judged yet."""
    unsaid = [None] * 150 + [...] * 100
    [*taught, told] = read_records(rows_of(*unsaid, "down", column="vote")).records
    assert all(isinstance(one, Conversation) for one in taught)
    assert isinstance(told, Finding)
    assert str(told).startswith("r:250: 'vote' says that it is bad")
    for form in ("judged", "question_answer"):
        [*_, last] = read_records(rows_of(*unsaid, "down", column="vote"), form=form).records
        assert isinstance(last, Judged if form == "judged" else Conversation)
    # What is no verdict there is none here.
    assert not [one for one in read_records(rows_of(*unsaid, "history")).records if isinstance(one, Finding)]


def test_an_unknown_label_is_told_with_what_it_says() -> None:
    [_, told] = read_records(rows_of("up", "meh", column="vote")).records
    assert "'vote' is 'meh', neither good nor bad." in str(told)


@pytest.mark.parametrize("numbers", [(4, 1), (1, 1), (5, 3, 1, 1, 1), ("0.2", "0.9"), (0, 2), (-1, 0, 1), (1, 0, 5)])
def test_ratings_that_leave_it_open_which_are_good_are_told(numbers: tuple[object, ...]) -> None:
    with pytest.raises(DataError, match=r"column 'rating' holds .* which answers are good cannot be told"):
        read_records(rows_of(*numbers, column="rating"))
    # Whoever wants them all says so.
    assert read_records(rows_of(*numbers, column="rating"), form="question_answer").form == "question_answer"


def test_what_is_no_judgement_stays_what_it_is() -> None:
    """Topics, numbers of classes and remarks in columns that may judge elsewhere."""
    for column, labels in {
        "label": ["maths", "history", "maths"],
        "feedback": ["Explained very well, thank you.", "I would add a source.", "no"],
        "reward": [None, "", ...],
    }.items():
        assert read_records(rows_of(*labels, column=column)).form == "question_answer", column
    assert read_records(rows_of(0, 1, 2, 1, 3, 1)).form == "question_answer"
    spam = [Row({"text": f"some text {n}", "label": n % 2}, f"r:{n}") for n in range(4)]
    assert read_records(spam).form == "classes"


def test_a_topic_beside_the_judgement() -> None:
    assert verdicts(read_records(rows_of("up", "down", None, column="vote", label="maths"))) == [True, False, None]
