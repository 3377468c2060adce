"""Turns that no form can read -> turns that it can, where nothing but their order or emptiness is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fledge.data import columns
from fledge.data.forms.conversations import conversation, has_turns, system_of
from fledge.data.forms.turns import CONTENT_KEYS, RowFault, turns_of
from fledge.records import Conversation, Message


def mended(values: Mapping[str, Any]) -> tuple[Conversation, list[str]] | None:
    """Return the conversation that a faulty row can safely become, and what was done to it, in words.

    Safe is: dropping turns without a word, joining turns that one side says in a row, putting a system message that
    stands elsewhere to the front, dropping what comes before the first question and a last question that nobody
    answered. None where the fault is another one, or nothing would remain to be taught.
    """
    key = columns.find(values, columns.TURNS)
    if key is None or not has_turns(values) or not isinstance(values[key], list):
        return None
    kept = [item for item in values[key] if not _is_empty(item)]
    done = _told(len(values[key]) - len(kept), "empty turn", "dropped")
    try:
        turns = list(turns_of(kept, key)) if kept else []
        if not any(turn.role == "system" for turn in turns[:1]):
            turns = [*system_of(values), *turns]
        turns, more = _in_order(turns)
        if not any(turn.role == "user" for turn in turns):
            return None
        return conversation(values, turns), done + more
    except RowFault:
        return None


def _is_empty(item: object) -> bool:
    """Whether a turn says nothing and calls nothing."""
    if not isinstance(item, Mapping):
        return isinstance(item, str) and not item.strip()
    if any(item.get(key) for key in ("tool_calls", "function_call", "api")):
        return False
    held = [item[key] for key in CONTENT_KEYS if key in item]
    return bool(held) and all(value is None or (isinstance(value, str) and not value.strip()) for value in held)


def _in_order(turns: Sequence[Message]) -> tuple[list[Message], list[str]]:
    """Return the turns in an order that can be taught, and what was done."""
    done: list[str] = []
    heads = [turn for turn in turns if turn.role == "system"]
    moved = [turn for turn in turns[1:] if turn.role == "system"]
    if moved:
        done += _told(len(moved), "system message", "put to the front")
        heads = [Message("system", "\n\n".join(dict.fromkeys(turn.content for turn in heads)))]
    joined: list[Message] = []
    for turn in (turn for turn in turns if turn.role != "system"):
        if joined and _one_side(joined[-1], turn):
            joined[-1] = replace(joined[-1], content=f"{joined[-1].content}\n{turn.content}")
        else:
            joined.append(turn)
    done += _told(sum(turn.role != "system" for turn in turns) - len(joined), "turn", "joined to the one before")
    first = next((place for place, turn in enumerate(joined) if turn.role != "tool"), len(joined))
    done += _told(first, "tool result", "that nobody called for dropped")
    last = max((place for place, turn in enumerate(joined) if turn.role == "assistant"), default=-1)
    done += _told(len(joined) - 1 - last, "unanswered last turn", "dropped")
    return [*heads, *joined[first : last + 1]], done


def _one_side(before: Message, after: Message) -> bool:
    plain = not (before.tool_calls or after.tool_calls or before.thinking or after.thinking)
    return before.role == after.role and before.role != "tool" and plain and before.taught == after.taught


def _told(count: int, what: str, done: str) -> list[str]:
    return [f"{count} {what}{'s' if count > 1 else ''} {done}"] if count > 0 else []
