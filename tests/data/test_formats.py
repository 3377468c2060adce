"""Rows -> conversations: which form a row is, what it says, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fledge.data.formats import FORMS, read_records, taught_of
from fledge.errors import ConfigError, DataError
from fledge.records import Conversation, Row


def rows(*values: Mapping[str, Any]) -> list[Row]:
    return [Row(value, f"rows.jsonl:{number}") for number, value in enumerate(values, start=1)]


def conversations(*values: Mapping[str, Any], **options: Any) -> tuple[list[Conversation], str]:
    reading = read_records(rows(*values), **options)
    return taught_of(reading, Path("rows.jsonl")), reading.form


def one(value: Mapping[str, Any], **options: Any) -> Conversation:
    (conversation,), _ = conversations(value, **options)
    return conversation


def said(conversation: Conversation) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in conversation.messages]


def chat(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


PLAIN = [("user", "q"), ("assistant", "a")]

SHAPES: list[tuple[str, dict[str, Any], list[tuple[str, str]]]] = [
    ("messages", chat(*PLAIN), PLAIN),
    ("messages", chat(("system", "s"), *PLAIN, ("user", "q2"), ("assistant", "a2")),
     [("system", "s"), *PLAIN, ("user", "q2"), ("assistant", "a2")]),
    ("prompt_completion", {"prompt": "q", "completion": "a"}, PLAIN),
    ("prompt_completion", {"prompt": "q", "completion": "a", "system": "s"}, [("system", "s"), *PLAIN]),
    ("prompt_completion",
     {"prompt": chat(("system", "s"), ("user", "q"))["messages"], "completion": chat(("assistant", "a"))["messages"]},
     [("system", "s"), *PLAIN]),
    ("question_answer", {"question": "q", "answer": "a"}, PLAIN),
    ("question_answer", {" Question ": "q", "ANSWER": "a", "system": "s"}, [("system", "s"), *PLAIN]),
    ("question_answer", {"instruction": "q", "output": "a"}, PLAIN),
    ("question_answer", {"instruction": "q", "input": "", "output": "a"}, PLAIN),
    ("question_answer", {"instruction": "q", "input": "about", "output": "a"},
     [("user", "q\n\nabout"), ("assistant", "a")]),
    ("question_answer", {"query": "q", "response": "a"}, PLAIN),
    ("question_answer", {"question": 6, "answer": 7.5}, [("user", "6"), ("assistant", "7.5")]),
]  # fmt: skip


@pytest.mark.parametrize(("form", "value", "expected"), SHAPES)
def test_each_form_is_recognised_and_read(form: str, value: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    read, found = conversations(value)
    assert (found, said(read[0])) == (form, expected)
    assert read[0].origin == "rows.jsonl:1"
    assert said(one(value, form=form)) == expected, "naming the form reads it the same way"


def test_the_most_telling_keys_come_first() -> None:
    everything = chat(*PLAIN) | {"prompt": "p", "completion": "c", "question": "x", "answer": "7"}
    assert said(one(everything)) == PLAIN
    del everything["messages"]
    assert said(one(everything)) == [("user", "p"), ("assistant", "c")]
    assert list(FORMS)[-1] == "text", "what fits nearly everything comes last"
    assert said(one(everything, form="question_answer")) == [("user", "x"), ("assistant", "7")]


def test_an_answer_column_is_what_a_scorer_looks_for_unless_it_is_the_reply() -> None:
    assert one({"prompt": "q", "completion": "It is 7.", "answer": 7}).answer == "7"
    assert one(chat(*PLAIN) | {"answer": "x"}).answer == "x"
    assert one(chat(*PLAIN)).answer is None
    assert one({"question": "q", "answer": "a"}).answer is None


def test_groups() -> None:
    assert one({"question": "q", "answer": "a", "group": 3}).group == "3"
    assert one({"question": "q", "answer": "a", "group": ""}).group is None, "an empty cell ties nothing together"
    assert one({"question": "q", "answer": "a"}).group is None


def test_columns_are_renamed() -> None:
    value = {"Frage": "q", "Antwort": "a", "question": "not this"}
    columns = {"question": "Frage", "answer": "Antwort"}
    assert said(one(value, columns=columns)) == PLAIN
    with pytest.raises(DataError, match=r"rows\.jsonl:1: no column 'Frag'; did you mean 'Frage'\?"):
        one(value, columns={"question": "Frag"})
    swapped = one({"a": "q", "q": "a"}, columns={"question": "a", "answer": "q"})
    assert said(swapped) == PLAIN


FAULTS: list[tuple[dict[str, Any], str]] = [
    (chat(("user", "q")), "ends with role 'user'"),
    (chat(("tool", "a"), ("assistant", "a")), "first turn is from 'tool'"),
    (chat(("user", "q"), ("tool", "a"), ("assistant", "a")), "a tool answers where nobody called it"),
    (chat(("system", "s")), "first turn is from 'nobody'"),
    (chat(("user", "q"), ("system", "s"), ("assistant", "a")), "system message stands after"),
    (chat(("user", "q"), ("user", "q"), ("assistant", "a")), "two messages in a row are from 'user'"),
    (chat(*PLAIN, ("assistant", "a")), "two messages in a row are from 'assistant'"),
    (chat(("usr", "q"), ("assistant", "a")), "did you mean 'user'?"),
    (chat((["user"], "q"), ("assistant", "a")), "has role"),  # type: ignore[arg-type]
    (chat(("user", ""), ("assistant", "a")), "'content of message 1' is empty"),
    (chat(("user", " \n"), ("assistant", "a")), "is empty"),
    (chat(("user", None), ("assistant", "a")), "message 1 is not"),
    (chat(("user", {"a": 1}), ("assistant", "a")), "is dict, expected text"),
    (chat(("user", [{"type": "image_url", "image_url": "x"}]), ("assistant", "a")), "only text can be taught"),
    (chat(("user", "q"), ("function_call", "get(1)")), "JSON that cannot be read"),
    (chat(("user", "q"), ("function_call", "{}")), "has no name"),
    ({"messages": []}, "'messages' is not a list"),
    ({"messages": "hello"}, "'messages' is not a list"),
    ({"messages": [["hello"]]}, "message 1 is not"),
    ({"messages": ["hello"]}, "ends with role 'user'"),
    ({"messages": [{"role": "user"}]}, "message 1 is not"),
    ({"prompt": "q", "completion": None}, "'completion' is missing"),
    ({"prompt": "q", "completion": True}, "'completion' is bool"),
    ({"prompt": [], "completion": "a"}, "'prompt' is not a list of messages"),
    ({"prompt": "q", "completion": "a", "answer": ["x"]}, "'answer' is list"),
    ({"question": "q", "answer": ""}, "'answer' is empty"),
    ({"question": "half \ud83d", "answer": "a"}, "half of a"),
    ({"question": "q", "answer": "a", "system": {"s": 1}}, "'system' is dict"),
]


@pytest.mark.parametrize(("value", "words"), FAULTS)
def test_every_fault_has_its_place_and_a_remedy(value: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError) as caught:
        one(value)
    error = caught.value
    assert words in error.message
    assert (error.code, error.where) == ("data.bad_row", "rows.jsonl:1")
    assert error.remedy.endswith(".")


def test_all_faults_are_told_at_once() -> None:
    broken = [value for value, _ in FAULTS if "messages" in value]
    with pytest.raises(DataError) as caught:
        conversations(chat(*PLAIN), *broken)
    assert str(caught.value).startswith(f"{len(broken)} problems.\nrows.jsonl:2: ")


@pytest.mark.parametrize("first", [chat(*PLAIN), {"prompt": "q", "completion": "a"}, {"question": "q", "answer": "a"}])
def test_a_row_of_another_form_than_the_first_is_a_fault_with_its_place(first: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:3: no ") as caught:
        conversations(first, first, {"text": "something else"})
    assert caught.value.code == "data.bad_row"


def test_an_unknown_shape_names_its_columns_and_an_unknown_form_the_nearest() -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:1: no known form has the columns Hier, Dort\."):
        one({"Hier": "q", "Dort": "a"})
    with pytest.raises(DataError, match=r"\(none\)") as caught:
        one({})
    assert caught.value.code == "data.unknown_format"
    with pytest.raises(ConfigError, match="did you mean 'messages'"):
        one({}, form="mesages")
