"""A record written in canonical form reads back as the same record, whatever it is."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from fledge.data.canonical import as_line
from fledge.data.formats import read_records
from fledge.records import Conversation, Judged, Message, Preference, Problem, Record, Row, Text, ToolCall

U, A = Message("user", 'Who?\n\u2028 "x"'), Message("assistant", "Me: 日本.")
TOOLS = json.dumps([{"type": "function", "function": {"name": "f", "parameters": {}}}])
CALL = Message("assistant", "", thinking="hm", tool_calls=(ToolCall("f", '{"a": 1}', "c1"), ToolCall("g", "{}")))
RECORDS: list[Record] = [
    Conversation((U, A), ""),
    Conversation((Message("system", "Be brief."), U, replace(A, taught=False), U, A), "", answer="Me", group="g"),
    Conversation((U, CALL, Message("tool", "7", name="f"), A), "", tools=TOOLS),
    Preference((U,), (A,), (Message("assistant", "You."),), "", group="g"),
    Judged((U, A), True, ""),
    Judged((U, A), False, "", group="3"),
    Problem((U,), "42", ""),
    Problem((U,), "", ""),
    Text("Once upon a time.", "", title="A tale", group="g"),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_there_and_back(record: Record) -> None:
    line = as_line(record)
    assert line.count("\n") == 1
    [back] = read_records([Row(json.loads(line), "")]).records
    assert back == record
