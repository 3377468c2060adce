"""Rows as people write them -> records: every layout of the field, and what each of them teaches."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fledge.data.formats import FORMS, read_records
from fledge.errors import Finding
from fledge.records import Conversation, Judged, Message, Preference, Problem, Record, Row, Text, ToolCall


def read(*values: Mapping[str, Any], **options: Any) -> tuple[list[Record | Finding], str]:
    reading = read_records([Row(value, f"r:{n}") for n, value in enumerate(values, start=1)], **options)
    return list(reading.records), reading.form


def only(value: Mapping[str, Any]) -> Record | Finding:
    (record,), _ = read(value)
    return record


def u(text: str) -> Message:
    return Message("user", text)


def a(text: str) -> Message:
    return Message("assistant", text)


def s(text: str) -> Message:
    return Message("system", text)


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def talk(*messages: Message, **more: Any) -> Conversation:
    return Conversation(messages, "r:1", **more)


CALL = {"name": "weather", "arguments": {"city": "Köln"}}
CALLED = ToolCall("weather", '{"city": "Köln"}')
TOOLS = [{"name": "weather", "parameters": {}}]
TOOLS_WHOLE = json.dumps([{"type": "function", "function": TOOLS[0]}])
USED = talk(u("q"), Message("assistant", "", tool_calls=(CALLED,)), Message("tool", "7"), a("7 °C"), tools=TOOLS_WHOLE)

LAYOUTS: list[tuple[str, dict[str, Any], Record]] = [
    (
        "messages",
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        talk(u("q"), a("a")),
    ),
    (
        "messages",
        {"conversation": [{"from": "user", "value": "q"}, {"from": "bot", "value": "a"}], "system": "s"},
        talk(s("s"), u("q"), a("a")),
    ),
    ("messages", {"messages": json.dumps([turn("user", "q"), turn("model", "a")])}, talk(u("q"), a("a"))),
    ("messages", {"dialog": ["q", "a", "q2", "a2"]}, talk(u("q"), a("a"), u("q2"), a("a2"))),
    (
        "messages",
        {"utterances": [{"speaker": "Customer", "text": "q"}, {"speaker": "AGENT", "text": "a"}]},
        talk(u("q"), a("a")),
    ),
    (
        "messages",
        {"messages": [turn("assistant", "Welcome!"), turn("user", "q"), turn("assistant", "a")]},
        talk(a("Welcome!"), u("q"), a("a")),
    ),
    (
        "messages",
        {
            "messages": [
                turn("user", "q"),
                {
                    "role": "assistant",
                    "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}],
                },
            ]
        },
        talk(u("q"), Message("assistant", "a", thinking="hm")),
    ),
    (
        "messages",
        {
            "messages": [
                turn("user", "q"),
                {"role": "assistant", "content": "a", "reasoning_content": "hm", "loss_weight": 0.0},
                turn("user", "r"),
                turn("assistant", "b"),
            ]
        },
        talk(u("q"), Message("assistant", "a", thinking="hm", taught=False), u("r"), a("b")),
    ),
    (
        "messages",
        {
            "conversations": [
                {"from": "human", "value": "q"},
                {"from": "function_call", "value": json.dumps(CALL)},
                {"from": "observation", "value": "7"},
                {"from": "gpt", "value": "7 °C"},
            ],
            "tools": json.dumps(TOOLS),
        },
        USED,
    ),
    (
        "messages",
        {
            "messages": [
                turn("user", "q"),
                {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": CALL}]},
                turn("tool", "7"),
                turn("assistant", "7 °C"),
            ],
            "tools": TOOLS,
        },
        USED,
    ),
    (
        "messages",
        {
            "messages": [
                turn("user", "q"),
                {"role": "agent", "api": {"weather": {"city": "Köln"}}},
                {"role": "api", "response": {"t": 7}},
                turn("agent", "7 °C"),
            ]
        },
        talk(u("q"), Message("assistant", "", tool_calls=(CALLED,)), Message("tool", '{"t": 7}'), a("7 °C")),
    ),
    (
        "question_answer",
        {"instruction": "q", "input": "x", "output": "a", "system": "s", "history": [["p", "b"]]},
        talk(s("s"), u("p"), a("b"), u("q\n\nx"), a("a")),
    ),
    ("question_answer", {"Frage": "q", "Antwort": "a"}, talk(u("q"), a("a"))),
    ("question_answer", {"Question ": "q", "context": "c", "Answer": "a"}, talk(u("c\n\nq"), a("a"))),
    ("question_answer", {"input": "q", "target": "a"}, talk(u("q"), a("a"))),
    (
        "instances",
        {"instruction": "q", "instances": [{"input": "x", "output": "a"}]},
        talk(u("q\n\nx"), a("a"), group="q\n\nx"),
    ),
    ("prompt_completion", {"prompt": "Human: q\n\nAssistant:", "completion": "a"}, talk(u("q"), a("a"))),
    (
        "transcript",
        {"text": "Human: q\n\nAssistant: a\n\nHuman: r\n\nAssistant: b"},
        talk(u("q"), a("a"), u("r"), a("b")),
    ),
    ("classes", {"text": "Free entry!", "label": "spam"}, talk(u("Free entry!"), a("spam"))),
    (
        "segments",
        {"label": "play", "data": [{"text": "play "}, {"text": "Abba", "entity": "artist"}]},
        talk(u("play Abba"), a("play")),
    ),
    ("preference", {"prompt": "q", "chosen": "a", "rejected": "b"}, Preference((u("q"),), (a("a"),), (a("b"),), "r:1")),
    (
        "preference",
        {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
        Preference((u("q"),), (a("a"),), (a("b"),), "r:1"),
    ),
    (
        "preference",
        {
            "chosen": [turn("user", "q"), turn("assistant", "a")],
            "rejected": [turn("user", "q"), turn("assistant", "b")],
        },
        Preference((u("q"),), (a("a"),), (a("b"),), "r:1"),
    ),
    (
        "preference",
        {
            "prompt": "q",
            "chosen": [turn("user", "q"), turn("assistant", "a")],
            "rejected": [turn("user", "q"), turn("assistant", "b")],
        },
        Preference((u("q"),), (a("a"),), (a("b"),), "r:1"),
    ),
    (
        "preference",
        {
            "conversations": [{"from": "human", "value": "q"}],
            "chosen": {"from": "gpt", "value": "a"},
            "rejected": {"from": "gpt", "value": "b"},
        },
        Preference((u("q"),), (a("a"),), (a("b"),), "r:1"),
    ),
    (
        "preference",
        {"question": "q", "answer_matching_behavior": " Yes", "answer_not_matching_behavior": " No"},
        Preference((u("q"),), (a("Yes"),), (a("No"),), "r:1"),
    ),
    (
        "ranked",
        {"prompt": "q", "responses": ["b", "a"], "ranks": [2, 1]},
        Preference((u("q"),), (a("a"),), (a("b"),), "r:1"),
    ),
    (
        "ranked",
        {"prompt": "q", "answers": [{"text": "b", "score": 0.1}, {"text": "a", "score": 3}]},
        Preference((u("q"),), (a("a"),), (a("b"),), "r:1"),
    ),
    (
        "judged",
        {"messages": [turn("user", "q"), turn("assistant", "a")], "label": True},
        Judged((u("q"), a("a")), True, "r:1"),
    ),
    ("judged", {"prompt": "q", "completion": "a", "kto_tag": "bad"}, Judged((u("q"), a("a")), False, "r:1")),
    (
        "judged",
        {
            "context": json.dumps([turn("agent", "Hello!"), turn("user", "q")]),
            "generation": json.dumps(turn("agent", "a")),
            "reward": 1.0,
        },
        Judged((u("q"), a("a")), True, "r:1"),
    ),
    ("problem", {"prompt": "6*7?", "ground_truth": 42}, Problem((u("6*7?"),), "42", "r:1")),
    ("problem", {"problem": "6*7?", "solution": "42"}, Problem((u("6*7?"),), "42", "r:1")),
    ("prompt", {"prompt": "Tell me."}, Problem((u("Tell me."),), "", "r:1")),
    ("text", {"text": "Once.", "title": "T"}, Text("Once.", "r:1", "T")),
    ("text", {"content": "x" * 5000, "topic": "long"}, Text("x" * 5000, "r:1")),
]


@pytest.mark.parametrize(("form", "value", "expected"), LAYOUTS)
def test_every_layout_is_recognised_and_read(form: str, value: dict[str, Any], expected: Record) -> None:
    (record,), found = read(value)
    assert found == form
    assert record == expected
    (named,), _ = read(value, form=form)
    assert named == expected


TREE = {
    "message_tree_id": "t",
    "prompt": {
        "text": "q",
        "role": "prompter",
        "replies": [
            {"text": "b", "role": "assistant", "rank": 1, "replies": []},
            {
                "text": "a",
                "role": "assistant",
                "rank": 0,
                "replies": [
                    {
                        "text": "r",
                        "role": "prompter",
                        "rank": None,
                        "replies": [
                            {"text": "worse", "role": "assistant", "rank": 2},
                            {"text": "better", "role": "assistant", "rank": 1},
                        ],
                    }
                ],
            },
            {"text": "not ranked", "role": "assistant", "rank": None},
        ],
    },
}


def test_a_reply_tree_gives_the_best_against_each_worse_at_every_depth() -> None:
    records, form = read(TREE)
    assert form == "reply_tree"
    assert records == [
        Preference((u("q"),), (a("a"),), (a("b"),), "r:1", "t"),
        Preference((u("q"), a("a"), u("r")), (a("better"),), (a("worse"),), "r:1", "t"),
    ]


def test_several_instances_of_one_row_stay_together() -> None:
    records, _ = read({"instruction": "q", "instances": [{"input": "x", "output": "a"}, {"input": "y", "output": "b"}]})
    assert [type(record) for record in records] == [Conversation, Conversation]
    assert len({record.group for record in records if not isinstance(record, Finding)}) == 1


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"chosen": "same", "rejected": "other"}, "begin with nothing in common"),
    ({"prompt": "q", "chosen": "a", "rejected": "a"}, "are the same"),
    ({"prompt": "q", "chosen": "a", "rejected": ""}, "'rejected' is empty"),
    ({"prompt": "q", "chosen": [turn("user", "x")], "rejected": "b"}, "two messages in a row are from 'user'"),
    ({"prompt": "q", "responses": ["a", "b"], "ranks": [1]}, "no entry for answer 2"),
    ({"prompt": "q", "responses": ["a", "b"], "scores": [1, 1]}, "no answer is ranked above another"),
    ({"messages": [turn("user", "q"), turn("assistant", "a")], "tools": "{"}, "'tools' holds JSON that cannot be read"),
    ({"instruction": "q", "output": "a", "history": ["x"]}, "'history' is not a list"),
    ({"prompt": {"text": "q", "role": "prompter", "replies": []}}, "no message in it has ranked replies"),
]


@pytest.mark.parametrize(("value", "words"), FAULTS)
def test_what_cannot_be_taught_says_why(value: dict[str, Any], words: str) -> None:
    found = only(value)
    assert isinstance(found, Finding)
    assert words in found.message
    assert found.where == "r:1"


def test_columns_are_judged_by_their_cells_where_no_name_is_known() -> None:
    rows = [{"v1": ("ham", "spam")[n % 2], "v2": f"This is text number {n}.", "v3": ""} for n in range(60)]
    records, form = read(*rows)
    assert form == "classes"
    assert records[1] == Conversation((u("This is text number 1."), a("spam")), "r:2")
    reading = read_records([Row(row, "r") for row in rows])
    assert "v2" in reading.why
    assert "ham, spam" in reading.why
    for never in ([{"v1": str(n % 3), "v2": f"text {n} is here"} for n in range(60)], [{"v1": "x", "v2": "y"}] * 60):
        with pytest.raises(ValueError, match="no known form"):
            read(*never)


def test_rows_without_an_answer_among_others_are_faulty_and_no_form_of_their_own() -> None:
    records, form = read({"question": "q", "answer": "a"}, {"question": "r"})
    assert form == "question_answer"
    assert isinstance(records[1], Finding)
    assert read({"question": "q"}, {"question": "r"})[1] == "prompt"


def test_the_form_is_that_of_most_rows() -> None:
    odd = {"text": "A note without a question."}
    records, form = read(odd, *[{"question": f"q{n}", "answer": "a"} for n in range(5)])
    assert form == "question_answer"
    assert isinstance(records[0], Finding)
    assert all(isinstance(record, Conversation) for record in records[1:])


PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def documented() -> list[tuple[str, str]]:
    """Return (form, row) of every example on the page about data."""
    sections = PAGE.read_text(encoding="utf-8").split("\n### ")[1:]
    return [
        (section.split("\n")[0], line)
        for section in sections
        for block in section.split("\n## ")[0].split("```json\n")[1:]
        for line in block.split("```")[0].splitlines()
    ]


@pytest.mark.parametrize(("form", "line"), documented())
def test_the_page_about_data_is_true(form: str, line: str) -> None:
    records, found = read(json.loads(line))
    assert found == form
    assert records
    assert not [record for record in records if isinstance(record, Finding)]


def test_the_page_about_data_knows_every_form() -> None:
    assert {form for form, _ in documented()} == set(FORMS)
