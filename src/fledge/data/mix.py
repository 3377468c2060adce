"""In which order rows are learnt, and what stands before them. Seeded, stateless, equal on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from fledge.records import Learnt, Message, Preference, Text

AnyRow = TypeVar("AnyRow", bound=Learnt)


def with_system(rows: Sequence[AnyRow], system: str | None) -> list[AnyRow]:
    """Return the rows with a system message put before the conversations that have none."""
    if not system:
        return list(rows)
    head = Message("system", system)
    return [_headed(row, head) for row in rows]


def _headed(row: AnyRow, head: Message) -> AnyRow:
    if isinstance(row, Text):
        return row
    if isinstance(row, Preference):
        return row if _begins(row.prompt) else replace(row, prompt=(head, *row.prompt))
    return row if _begins(row.messages) else replace(row, messages=(head, *row.messages))


def _begins(messages: Sequence[Message]) -> bool:
    return bool(messages) and messages[0].role == "system"


def shuffled(num_rows: int, *, seed: int | str, epoch: int) -> list[int]:
    """Return the order of rows in one epoch. It depends on (seed, epoch) alone, so a resumed run can redo it."""
    rank = [hashlib.blake2b(f"{seed}\0{epoch}\0{row}".encode(), digest_size=8).digest() for row in range(num_rows)]
    return sorted(range(num_rows), key=rank.__getitem__)
