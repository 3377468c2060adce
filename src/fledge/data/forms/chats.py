"""Chat exports -> Conversation: what people wrote to each other, cut into sessions, one of them taught."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fledge.data.chat_notes import is_of_sending, said_in
from fledge.data.forms.turns import RowFault, check_order
from fledge.records import Conversation, Message

# After so long a silence people begin a new conversation.
SESSION_GAP_S = 6 * 3600
TIME_KEYS = ("timestamp_ms", "date_unixtime", "timestamp", "date", "time", "create_time")
AUTHOR_KEYS = ("sender_name", "from", "author", "sender")
SAID_KEYS = ("content", "text", "message")
READ = frozenset((*TIME_KEYS, *AUTHOR_KEYS, *SAID_KEYS))


@dataclass(frozen=True)
class Said:
    """One message of a chat. `time` in seconds since 1970, NaN where none is told."""

    author: str
    text: str
    time: float


def is_openai_export(values: Mapping[str, Any]) -> bool:
    """Whether the row is a conversation of ChatGPT's data export: a tree of messages."""
    mapping = values.get("mapping")
    return (
        isinstance(mapping, Mapping) and bool(mapping) and all(isinstance(node, Mapping) for node in mapping.values())
    )


def from_openai_export(values: Mapping[str, Any]) -> list[Conversation]:
    """The branch that the user saw last: from the current node up to the root."""
    mapping = values["mapping"]
    name = values.get("current_node")
    if not isinstance(name, str) or name not in mapping:
        # Without a marked end: the last leaf in the file's order.
        name = next((key for key in reversed(mapping) if not mapping[key].get("children")), None)
    branch, seen = [], set()
    while isinstance(name, str) and name in mapping and name not in seen:
        seen.add(name)
        branch.append(mapping[name].get("message"))
        name = mapping[name].get("parent")
    turns = [turn for message in reversed(branch) if (turn := _openai_turn(message)) is not None]
    messages = _sides([(turn.role == "assistant", turn.content) for turn in turns if turn.role != "system"])
    if not messages:
        raise RowFault("no question in it was answered.", "Remove the row.")
    head = [turn for turn in turns if turn.role == "system"][:1]
    return [Conversation((*head, *messages), "")]


def _openai_turn(message: object) -> Message | None:
    if not isinstance(message, Mapping):
        return None
    author, content, told = message.get("author"), message.get("content"), message.get("metadata")
    if message.get("recipient") not in (None, "all") or (
        isinstance(told, Mapping) and told.get("is_visually_hidden_from_conversation")
    ):
        # Said to a program, or by one: nobody saw it in the chat.
        return None
    role = author.get("role") if isinstance(author, Mapping) else None
    parts = content.get("parts") if isinstance(content, Mapping) else None
    text = "\n".join(part for part in parts or [] if isinstance(part, str)).strip()
    if role not in ("system", "user", "assistant") or not text:
        return None
    return Message(role, text)


def is_chat_export(values: Mapping[str, Any]) -> bool:
    """Whether the row is a chat between people: messages with an author and a time, roles of nobody."""
    items = values.get("messages")
    if not isinstance(items, list) or not items:
        return False
    heads = [item for item in items[:50] if isinstance(item, Mapping)]
    told = [item for item in heads if _author(item) is not None and _time(item) == _time(item)]
    return len(told) * 2 > len(heads) > 0 and not any("role" in item for item in heads)


def is_chat_row(values: Mapping[str, Any]) -> bool:
    """Whether the row is one message of a chat: who wrote it, when, and what."""
    said = next((values[key] for key in SAID_KEYS if key in values), None)
    return isinstance(said, str) and _author(values) is not None and _time(values) == _time(values)


def _author(item: Mapping[str, Any]) -> str | None:
    name = next((item[key] for key in AUTHOR_KEYS if key in item), None)
    return _unmangled(name) if isinstance(name, str) and name.strip() else None


def _time(item: Mapping[str, Any]) -> float:
    """Return the seconds since 1970 of a message, or NaN."""
    key = next((key for key in TIME_KEYS if key in item), None)
    value = item[key] if key else None
    try:
        if isinstance(value, str) and not value.replace(".", "", 1).isdigit():
            return datetime.datetime.fromisoformat(value).timestamp()
        return float(value) / (1000 if key == "timestamp_ms" else 1) if value is not None else float("nan")
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def from_chat_export(values: Mapping[str, Any], me: str | None = None) -> list[Conversation]:
    """Return one conversation a session; taught is what `me` wrote, or who answers the others most often."""
    said = [s for item in values["messages"] if isinstance(item, Mapping) and (s := _said(item)) is not None]
    authors = Counter(one.author for one in said)
    if len(authors) < 2:
        raise RowFault(f"{'only one person' if authors else 'nobody'} writes in it.", "Remove the chat.")
    if me is not None and me not in authors:
        named = ", ".join(name for name, _ in authors.most_common(8))
        raise RowFault(f"nobody in it is called '{me}': {named}.", "Mend data.me, or remove the chat.")
    ordered = sorted(said, key=lambda one: one.time) if all(one.time == one.time for one in said) else said
    sessions = list(_sessions(ordered))
    if not any(one.author != after.author for s in sessions for one, after in zip(s, s[1:], strict=False)):
        # Nobody answers on the same day: people who write letters.
        sessions = [ordered]
    me = me or _answers(sessions).most_common(1)[0][0]
    several = len(authors) > 2
    found = []
    for session in sessions:
        turns = [
            (one.author == me, f"{one.author}: {one.text}" if several and one.author != me else one.text)
            for one in session
        ]
        if messages := _sides(turns):
            check_order(messages)
            found.append(Conversation(tuple(messages), ""))
    if not found:
        raise RowFault(f"'{me}' answers nobody in it.", "Name another writer in data.me, or remove the chat.")
    return found


def author_of(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Return who answers in most of these chats, and of those who answers most often; None where nobody does."""
    chats: Counter[str] = Counter()
    answers: Counter[str] = Counter()
    for values in filter(is_chat_export, rows):
        said = [s for item in values["messages"] if isinstance(item, Mapping) and (s := _said(item)) is not None]
        timed = all(one.time == one.time for one in said)
        own = _answers([sorted(said, key=lambda one: one.time) if timed else said])
        chats.update(own.keys())
        answers.update(own)
    return max(answers, key=lambda name: (chats[name], answers[name])) if answers else None


def _answers(sessions: Sequence[Sequence[Said]]) -> Counter[str]:
    """Return how often each writes after somebody else."""
    return Counter(
        after.author
        for session in sessions
        for one, after in zip(session, session[1:], strict=False)
        if one.author != after.author
    )


def _said(item: Mapping[str, Any]) -> Said | None:
    author = _author(item)
    held = next((item[key] for key in SAID_KEYS if key in item), None)
    if isinstance(held, list):
        # Telegram writes bold words and links as parts of their own.
        pieces = [part.get("text", "") if isinstance(part, Mapping) else part for part in held]
        held = " ".join(piece.strip() for piece in pieces if isinstance(piece, str) and piece.strip())
    if author is None or not isinstance(held, str) or item.get("type") == "service":
        return None
    text = said_in(_unmangled(held))
    return Said(author, text, _time(item)) if text and not is_of_sending(text, author) else None


def _unmangled(text: str) -> str:
    """Return the text of Instagram's exports, which write the bytes of UTF-8 as if each were a letter."""
    if all(ord(c) < 256 for c in text) and any(ord(c) > 127 for c in text):
        try:
            return text.encode("latin-1").decode("utf-8")
        except UnicodeDecodeError:
            return text
    return text


def _sessions(said: Sequence[Said]) -> Iterator[list[Said]]:
    session: list[Said] = []
    for one in said:
        if session and one.time - session[-1].time > SESSION_GAP_S:
            yield session
            session = []
        session.append(one)
    if session:
        yield session


def _sides(turns: Sequence[tuple[bool, str]]) -> list[Message]:
    """Return user and assistant in turn from (is mine, text): what one side says in a row is one message.

    What nobody had asked before and what nobody answered after is left out.
    """
    merged: list[tuple[bool, str]] = []
    for mine, text in turns:
        if merged and merged[-1][0] == mine:
            merged[-1] = (mine, f"{merged[-1][1]}\n{text}")
        else:
            merged.append((mine, text))
    if merged and merged[0][0]:
        merged = merged[1:]
    if merged and not merged[-1][0]:
        merged = merged[:-1]
    return [Message("assistant" if mine else "user", text) for mine, text in merged]
