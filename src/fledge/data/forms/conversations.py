"""Rows that hold questions with answers -> Conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fledge.data import columns
from fledge.data.forms.turns import (
    FILL,
    RowFault,
    check_order,
    is_transcript,
    text_of,
    tools_of,
    transcript,
    turns_of,
)
from fledge.records import Conversation, Message

Values = Mapping[str, Any]
# What is longer is a document that has a topic, not a message to be sorted.
LONGEST_CLASSIFIED = 4000
INSTANCES = ("instances", "questions_and_answers", "qas", "qa", "qa_pairs")


def group_of(values: Values) -> str | None:
    """Return the row's group; a table has an empty cell where a row belongs to none."""
    key = columns.find(values, columns.GROUP)
    group = values[key] if key else None
    return None if group in (None, "") else str(group)


def row_tools(values: Values) -> str:
    key = columns.find(values, columns.TOOLS)
    return tools_of(values[key]) if key else ""


def system_of(values: Values) -> tuple[Message, ...]:
    key = columns.find(values, columns.SYSTEM)
    return (Message("system", text_of(values[key], key)),) if key and values[key] else ()


def conversation(values: Values, messages: Sequence[Message], *, target: bool = True) -> Conversation:
    """Return the conversation of `messages`; the column 'answer' says what a scorer must find, if it is a `target`."""
    check_order(messages)
    answer = values.get("answer") if target else None
    told = None if answer in (None, "") else text_of(answer, "answer")
    return Conversation(tuple(messages), "", answer=told, group=group_of(values), tools=row_tools(values))


def has_turns(values: Values) -> bool:
    """Whether a column holds turns: a list of them, or JSON of one."""
    key = columns.find(values, columns.TURNS)
    if key is None or key in ("messages", "conversations"):
        return key is not None
    held = values[key]
    return isinstance(held, list) or (isinstance(held, str) and held.lstrip().startswith("[{"))


def with_system(values: Values, turns: Sequence[Message]) -> tuple[Message, ...]:
    own = bool(turns) and turns[0].role == "system"
    return tuple(turns) if own else (*system_of(values), *turns)


def from_turns(values: Values) -> list[Conversation]:
    key = columns.find(values, columns.TURNS)
    if key is None:
        raise RowFault("no 'messages'.", FILL)
    return [conversation(values, with_system(values, turns_of(values[key], key)))]


def is_prompt_completion(values: Values) -> bool:
    return {"prompt", "completion"} <= set(values)


def from_prompt_completion(values: Values) -> list[Conversation]:
    for key in ("prompt", "completion"):
        if key not in values:
            raise RowFault(f"no '{key}'.", FILL)
    prompt, completion = values["prompt"], values["completion"]
    after = (
        turns_of(completion, "completion")
        if isinstance(completion, list)
        else (Message("assistant", text_of(completion, "completion")),)
    )
    return [conversation(values, (*prompt_of(values, prompt, "prompt"), *after))]


def prompt_of(values: Values, prompt: object, key: str) -> tuple[Message, ...]:
    """Return the messages of a prompt: a list of turns, a conversation written out, or one question."""
    if isinstance(prompt, list | dict) or (isinstance(prompt, str) and prompt.lstrip().startswith("[{")):
        return with_system(values, turns_of(prompt, key))
    if isinstance(prompt, str) and is_transcript(prompt):
        turns = transcript(prompt)
        # What is left open after the last speaker is where the answer goes.
        return with_system(values, turns[:-1] if not turns[-1].content else turns)
    return (*system_of(values), *history_of(values), Message("user", text_of(prompt, key)))


def history_of(values: Values) -> tuple[Message, ...]:
    """Return Alpaca's earlier turns: pairs of a question and its answer."""
    key = columns.find(values, columns.HISTORY)
    pairs = values[key] if key else None
    if not pairs:
        return ()
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise RowFault("'history' is not a list of [question, answer].")
    return tuple(
        message
        for number, (asked, said) in enumerate(pairs, start=1)
        for message in (
            Message("user", text_of(asked, f"question {number} of history")),
            Message("assistant", text_of(said, f"answer {number} of history")),
        )
    )


def is_question_answer(values: Values) -> bool:
    question, answer = columns.find(values, columns.QUESTION), columns.find(values, columns.ANSWER)
    return question is not None and answer is not None and question != answer


def asked_of(values: Values) -> tuple[str, object]:
    """Return the row's question column and what it asks, with what the question is about."""
    question = columns.find(values, columns.QUESTION)
    if question is None:
        raise RowFault("no question or no answer column.", FILL)
    asked = values[question]
    if columns.spelled(question) == "instruction":
        # Alpaca's third column: what the instruction is about.
        about = columns.find(values, ("input",))
        if about is not None and values[about]:
            return question, f"{text_of(asked, question)}\n\n{text_of(values[about], about)}"
    about = columns.find(values, ("context", "passage"))
    if about is not None and isinstance(values[about], str) and values[about].strip():
        return question, f"{values[about].strip()}\n\n{text_of(asked, question)}"
    return question, asked


def from_question_answer(values: Values) -> list[Conversation]:
    answer = columns.find(values, columns.ANSWER)
    question, asked = asked_of(values)
    if answer is None:
        raise RowFault("no question or no answer column.", FILL)
    said = Message("assistant", text_of(values[answer], answer))
    return [conversation(values, (*prompt_of(values, asked, question), said), target=False)]


def has_instances(values: Values) -> bool:
    key = columns.find(values, INSTANCES)
    return key is not None and isinstance(values[key], list)


def from_instances(values: Values) -> list[Conversation]:
    """One instruction or passage with several questions and answers: a conversation for each, all of one group."""
    key = columns.find(values, INSTANCES)
    assert key is not None
    shared = {name: value for name, value in values.items() if name not in (key, *columns.GROUP)}
    found = []
    for number, instance in enumerate(values[key], start=1):
        if not isinstance(instance, Mapping):
            raise RowFault(f"item {number} of '{key}' is no object.")
        found += from_question_answer({**shared, **instance})
    if not found:
        raise RowFault(f"'{key}' is empty.", FILL)
    group = group_of(values) or "\0".join(m.content for m in found[0].prompt)[:200]
    return [Conversation(c.messages, "", c.answer, group, c.tools) for c in found]


def has_segments(values: Values) -> bool:
    """Whether the row is an utterance in segments: text, some of it marked as an entity."""
    data = values.get("data")
    return isinstance(data, list) and bool(data) and all(isinstance(s, Mapping) and "text" in s for s in data)


def from_segments(values: Values) -> list[Conversation]:
    if not has_segments(values):
        raise RowFault("'data' is not a list of segments with 'text'.")
    text = "".join(text_of(segment["text"], "text", empty=True) for segment in values["data"])
    return from_class({"text": text, "label": values.get("label")})


def is_class(values: Values) -> bool:
    text, label = columns.find(values, columns.TEXT), columns.find(values, columns.CLASS)
    short = text is not None and len(str(values[text])) <= LONGEST_CLASSIFIED
    return short and label is not None and text != label and not has_turns(values)


def from_class(values: Values) -> list[Conversation]:
    """A text and its class: the text is the question, the class the answer."""
    text, label = columns.find(values, columns.TEXT), columns.find(values, columns.CLASS)
    if text is None or label is None:
        raise RowFault("no text or no class column.", FILL)
    told = str(values[label]) if isinstance(values[label], bool) else text_of(values[label], label)
    asked = Message("user", text_of(values[text], text).strip())
    return [conversation(values, (*system_of(values), asked, Message("assistant", told)), target=False)]
