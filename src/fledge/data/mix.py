"""Which rows are held out and in which order the others are learnt. Seeded, stateless, equal on every machine."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from fledge.records import Conversation, Message

MIN_ROWS_TO_SPLIT = 20


def with_system(rows: Sequence[Conversation], system: str | None) -> list[Conversation]:
    """Return the rows with a system message put before those that have none."""
    if not system:
        return list(rows)
    head = Message("system", system)
    return [row if row.messages[0].role == "system" else replace(row, messages=(head, *row.messages)) for row in rows]


def split(rows: Sequence[Conversation], *, share: float, seed: int) -> tuple[list[Conversation], list[Conversation]]:
    """Return (train, held out): the share of each task. Rows of one group, or with the same question, are never parted.

    Groups are ranked by a hash of seed and name, so adding rows moves few others from one side to the other. One that
    would hold out more than twice what was asked for is passed over.
    """
    keys = _group_keys(rows)
    ranked = sorted(set(keys), key=lambda key: hashlib.sha256(f"{seed}\0{key}".encode()).digest())
    tasks: dict[str, Counter[str]] = {}
    for row, key in zip(rows, keys, strict=True):
        tasks.setdefault(row.task, Counter())[key] += 1
    held: set[str] = set()
    for sizes in tasks.values():
        wanted = round(share * sizes.total())
        # A group may have rows of several tasks; what an earlier task has held out counts for this one too.
        count = sum(sizes[key] for key in held)
        for key in [key for key in ranked if key in sizes][:-1]:
            if key not in held and count < wanted and count + sizes[key] <= 2 * wanted:
                held.add(key)
                count += sizes[key]
    train = [row for row, key in zip(rows, keys, strict=True) if key not in held]
    return train, [row for row, key in zip(rows, keys, strict=True) if key in held]


def _group_keys(rows: Sequence[Conversation]) -> list[str]:
    """Return one key per row; rows that are tied by a group or a question, directly or through others, share it."""
    leader: dict[str, str] = {}

    def find(key: str) -> str:
        while leader.setdefault(key, key) != key:
            leader[key] = leader[leader[key]]
            key = leader[key]
        return key

    questions = [_question_key(row) for row in rows]
    for row, question in zip(rows, questions, strict=True):
        first, second = sorted((find(question), find(question if row.group is None else f"group:{row.group}")))
        leader[second] = first
    return [find(question) for question in questions]


def _question_key(row: Conversation) -> str:
    return "question:" + "\0".join(m.content.casefold().strip() for m in row.prompt if m.role == "user")


def shuffled(num_rows: int, *, seed: int | str, epoch: int) -> list[int]:
    """Return the order of rows in one epoch. It depends on (seed, epoch) alone, so a resumed run can redo it."""
    rank = [hashlib.blake2b(f"{seed}\0{epoch}\0{row}".encode(), digest_size=8).digest() for row in range(num_rows)]
    return sorted(range(num_rows), key=rank.__getitem__)
