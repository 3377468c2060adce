"""Which rows are held out and in which order the others are learnt. Seeded, stateless, equal on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from fledge.records import Conversation, Message

MIN_ROWS_TO_SPLIT = 20


def with_system(rows: Sequence[Conversation], system: str | None) -> list[Conversation]:
    """Return the rows with a system message put before those that have none."""
    if not system:
        return list(rows)
    head = Message("system", system)
    return [
        row
        if row.messages[0].role == "system"
        else Conversation((head, *row.messages), row.origin, row.answer, row.group)
        for row in rows
    ]


def split(rows: Sequence[Conversation], *, share: float, seed: int) -> tuple[list[Conversation], list[Conversation]]:
    """Return (train, held out). Rows of one group, and rows with the same question, are never parted.

    Groups are ranked by a hash of seed and name, so adding rows moves few others from one side to the other.
    """
    keys = [_group_key(row) for row in rows]
    ranked = sorted(set(keys), key=lambda key: hashlib.sha256(f"{seed}\0{key}".encode()).digest())
    held: set[str] = set()
    wanted = round(share * len(rows))
    count = 0
    for key in ranked[:-1]:
        if count >= wanted:
            break
        held.add(key)
        count += keys.count(key)
    train = [row for row, key in zip(rows, keys, strict=True) if key not in held]
    return train, [row for row, key in zip(rows, keys, strict=True) if key in held]


def _group_key(row: Conversation) -> str:
    if row.group is not None:
        return f"group:{row.group}"
    return "question:" + " ".join(m.content.casefold().strip() for m in row.prompt if m.role == "user")


def shuffled(num_rows: int, *, seed: int, epoch: int) -> list[int]:
    """Return the order of rows in one epoch. It depends on (seed, epoch) alone, so a resumed run can redo it."""
    rank = [hashlib.blake2b(f"{seed}\0{epoch}\0{row}".encode(), digest_size=8).digest() for row in range(num_rows)]
    return sorted(range(num_rows), key=rank.__getitem__)
