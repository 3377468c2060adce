"""Rows that are single turns -> rows that are conversations: a bare list of messages, a table with a line for each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fledge.data import columns
from fledge.data.forms.turns import CALL_ID_KEYS, CONTENT_KEYS, ROLE_KEYS, ROLES, THINKING_KEYS
from fledge.errors import Finding
from fledge.records import Row

READ = frozenset(
    (*ROLE_KEYS, *CONTENT_KEYS, *THINKING_KEYS, *CALL_ID_KEYS, *columns.GROUP, "tool_calls", "name", "weight")
)


def are_turns(rows: Sequence[Row]) -> bool:
    """Whether each row is one turn of a conversation, and somebody asks and somebody answers."""
    roles = {_role(row.values) for row in rows}
    return None not in roles and {"user", "assistant"} <= roles


def _role(values: Mapping[str, Any]) -> str | None:
    said = next((values[key] for key in ROLE_KEYS if key in values), None)
    holds = any(isinstance(values.get(key), str | list) for key in CONTENT_KEYS) or bool(values.get("tool_calls"))
    return ROLES.get(said.strip().lower()) if isinstance(said, str) and holds else None


def conversations_of(rows: Iterable[Row | Finding]) -> Iterator[Row | Finding]:
    """Yield a row for each conversation: turns that follow one another in one `group`, or all where none is named."""
    turns: list[Mapping[str, Any]] = []
    origin, group = "", None
    for row in rows:
        if isinstance(row, Finding):
            yield row
            continue
        key = columns.find(row.values, columns.GROUP)
        own = row.values[key] if key else None
        if turns and own != group:
            yield _whole(turns, group, origin)
            turns = []
        if not turns:
            origin, group = row.origin, own
        turns.append(row.values)
    if turns:
        yield _whole(turns, group, origin)


def _whole(turns: Sequence[Mapping[str, Any]], group: object, origin: str) -> Row:
    return Row({"messages": list(turns)} | ({} if group in (None, "") else {"group": group}), origin)
