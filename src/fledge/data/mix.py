"""In which order rows are learnt, and what stands before them. Seeded, stateless, equal on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from fledge.records import Message, Taught, Text


def with_system(rows: Sequence[Taught], system: str | None) -> list[Taught]:
    """Return the rows with a system message put before the conversations that have none."""
    if not system:
        return list(rows)
    head = Message("system", system)
    return [
        row
        if isinstance(row, Text) or row.messages[0].role == "system"
        else replace(row, messages=(head, *row.messages))
        for row in rows
    ]


def shuffled(num_rows: int, *, seed: int | str, epoch: int) -> list[int]:
    """Return the order of rows in one epoch. It depends on (seed, epoch) alone, so a resumed run can redo it."""
    rank = [hashlib.blake2b(f"{seed}\0{epoch}\0{row}".encode(), digest_size=8).digest() for row in range(num_rows)]
    return sorted(range(num_rows), key=rank.__getitem__)
