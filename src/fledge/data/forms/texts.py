"""Rows that hold text to be learnt as it stands, or a prompt whose answer is checked -> Text, Problem."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fledge.data import columns
from fledge.data.forms.conversations import asked_of, conversation, group_of, prompt_of, row_tools
from fledge.data.forms.turns import FILL, RowFault, check_order, is_transcript, text_of, transcript
from fledge.records import Conversation, Problem, Text

Values = Mapping[str, Any]


def is_transcript_row(values: Values) -> bool:
    key = columns.find(values, columns.TEXT)
    # A document is text as it stands, whatever it looks like.
    return key is not None and columns.spelled(key) != "document" and is_transcript(values[key])


def from_transcript(values: Values) -> list[Conversation]:
    """A conversation written out in one text: "Human: ...", then "Assistant: ..."."""
    key = columns.find(values, columns.TEXT)
    turns = transcript(text_of(values[key], key)) if key is not None else []
    if not turns:
        raise RowFault("no conversation in the text.", "Begin each turn with 'Human:' or 'Assistant:'.")
    if turns[-1].role == "user" or not turns[-1].content:
        turns = turns[:-1]
    return [conversation(values, turns)]


def is_text(values: Values) -> bool:
    key = columns.find(values, columns.TEXT)
    return key is not None and isinstance(values[key], str)


def from_text(values: Values) -> list[Text]:
    key = columns.find(values, columns.TEXT)
    if key is None:
        raise RowFault("no 'text'.", FILL)
    title = columns.find(values, columns.TITLE)
    named = str(values[title]) if title is not None and values[title] is not None else ""
    above = values.get("headings")
    headings = tuple(map(str, above)) if isinstance(above, list) else ()
    return [Text(text_of(values[key], key), "", named, group_of(values), headings)]


def is_problem(values: Values) -> bool:
    question, answer = columns.find(values, columns.QUESTION), columns.find(values, columns.CHECKABLE)
    return question is not None and answer is not None and question != answer


def from_problem(values: Values) -> list[Problem]:
    """A prompt and what a right answer comes to; nothing, where a reward function knows by itself."""
    question, asked = asked_of(values)
    answer = columns.find(values, columns.CHECKABLE)
    prompt = prompt_of(values, asked, question)
    check_order(prompt, ends="user")
    told = text_of(values[answer], answer) if answer is not None and values[answer] is not None else ""
    return [Problem(prompt, told, "", group_of(values), row_tools(values))]


def is_bare_prompt(values: Values) -> bool:
    return columns.find(values, columns.QUESTION) is not None
