"""Record -> the one row that says it in fledge's own columns; reading that row gives the record again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fledge.data.forms.turns import is_transcript
from fledge.records import Conversation, Judged, Message, Preference, Problem, Record, Text

# What the rows of each kind of record are called.
KINDS: Mapping[type[Record], str] = {
    Conversation: "messages", Preference: "preference", Judged: "judged", Problem: "problem", Text: "text",
}  # fmt: skip


def as_values(record: Record) -> dict[str, Any]:
    """Return the columns of a record. Its origin is not among them: it becomes the row's own place."""
    match record:
        case Conversation():
            values: dict[str, Any] = {"messages": _turns(record.messages)}
            values |= {} if record.answer is None else {"answer": record.answer}
        case Preference():
            sides = {"prompt": record.prompt, "chosen": record.chosen, "rejected": record.rejected}
            values = {name: _turns(turns) for name, turns in sides.items()}
        case Judged():
            values = {"messages": _turns(record.messages), "label": record.good}
        case Problem():
            values = {"prompt": _turns(record.prompt)} | ({"ground_truth": record.answer} if record.answer else {})
        case Text():
            # A text that looks like a conversation written out would be read as one; a document never is.
            name = "document" if is_transcript(record.text) else "text"
            values = dict[str, Any]({name: record.text}) | ({"title": record.title} if record.title else {})
            values |= {"headings": list(record.headings)} if record.headings else {}
    if record.group is not None:
        values["group"] = record.group
    if not isinstance(record, Text) and record.tools:
        values["tools"] = json.loads(record.tools)
    return values


def as_line(record: Record, *, origin: bool = False) -> str:
    """Return the row as one line of JSONL, with its line end; `origin` adds a column that says where it came from."""
    values = as_values(record) | ({"origin": record.origin} if origin else {})
    return json.dumps(values, ensure_ascii=False) + "\n"


def _turns(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [message.as_openai() | ({} if message.taught else {"weight": 0}) for message in messages]
