"""Documents beside rows: read with their lines, and cut into parts where there are too few to hold some out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fledge.data.passages import passages
from fledge.errors import DataError
from fledge.records import Conversation, Learnt, Text

# A part of a document is a section or some of them: so many characters at most, and fewer of a small collection. Where
# parts of the first length are too few, the second is tried.
MOST_CHARS, LEAST_CHARS = 4000, (400, 120)
# A collection is cut into about so many parts.
PARTS = 40


def texts_of(rows: Sequence[Learnt]) -> list[Text]:
    return [row for row in rows if isinstance(row, Text)]


def conversations_in(rows: Sequence[Learnt]) -> list[Conversation]:
    return [row for row in rows if isinstance(row, Conversation)]


def in_parts(rows: Sequence[Learnt], *, enough: int) -> tuple[list[Learnt], str]:
    """Return the rows with their texts cut into parts where there are fewer than `enough`, and that in words.

    Where there is so little text that the parts would be too few as well, the texts stay whole.
    """
    texts = texts_of(rows)
    if not texts or len(texts) >= enough:
        return list(rows), ""
    fair = min(MOST_CHARS, sum(len(text.text) for text in texts) // PARTS)
    for least in LEAST_CHARS:
        size = max(least, fair)
        parts = [part for row in rows for part in (_parts(row, size) if isinstance(row, Text) else [row])]
        if (count := len(texts_of(parts))) >= enough:
            break
    else:
        return list(rows), ""
    return parts, f"{len(texts)} {'texts are' if len(texts) > 1 else 'text is'} cut into {count} parts to hold some out"


def _parts(text: Text, size: int) -> list[Text]:
    return [
        replace(text, text=passage.text, origin=passage.where, headings=passage.headings, lines=())
        for passage in passages(text, size)
    ]


def refuse_texts(rows: Sequence[Learnt], objective: str) -> None:
    """Raise DataError where there is nothing but text and answers are to be taught."""
    texts = texts_of(rows)
    if objective == "sft" and texts and len(texts) == len(rows):
        raise DataError(
            "data.nothing_taught",
            "read as text as it stands: nothing in it answers a question.",
            where=texts[0].origin,
            remedy="To learn the text itself, set objective: text; for questions and answers, name data.format.",
        )
