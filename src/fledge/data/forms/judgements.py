"""Rows with an answer that somebody found good or bad -> Judged. What says neither is never taken for good."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from fledge.data import columns
from fledge.data.forms.conversations import group_of, has_turns, prompt_of, row_tools, with_system
from fledge.data.forms.turns import FILL, RowFault, check_order, parse_json, text_of, turns_of
from fledge.records import Judged, Message, Record

Values = Mapping[str, Any]
Turns = tuple[Message, ...]
YES = frozenset(
    ("true", "t", "1", "+1", "yes", "y", "good", "up", "chosen", "desirable", "like", "liked", "thumbs up", "thumbsup",
     "upvote", "upvoted", "positive", "correct", "right", "helpful", "accept", "accepted", "approved", "pass",
     "passed", "\N{THUMBS UP SIGN}", "\N{WHITE HEAVY CHECK MARK}", "\N{CHECK MARK}", "\N{HEAVY CHECK MARK}",
     "ja", "gut", "richtig", "oui", "bon", "correcte", "sí", "bueno", "correcto", "sì", "buono", "corretto", "sim",
     "bom", "correto", "goed", "tak", "да", "是", "はい", "예")
)  # fmt: skip
NO = frozenset(
    ("false", "f", "0", "-1", "no", "n", "bad", "down", "rejected", "undesirable", "dislike", "disliked", "thumbs down",
     "thumbsdown", "downvote", "downvoted", "negative", "incorrect", "wrong", "unhelpful", "not helpful", "reject",
     "not correct", "fail", "failed", "\N{THUMBS DOWN SIGN}", "\N{CROSS MARK}", "\N{BALLOT X}", "\N{HEAVY BALLOT X}",
     "nein", "schlecht", "falsch", "non", "mauvais", "incorrecte", "malo", "incorrecto", "cattivo", "sbagliato", "não",
     "ruim", "incorreto", "nee", "slecht", "fout", "nie", "нет", "否", "いいえ", "아니요")
)  # fmt: skip
UNSAID = frozenset(("", "none", "null", "nan", "n/a", "na", "-", "?"))
# Numbers that can be nothing else than a yes and a no; 0 between -1 and 1 is neither.
CLEAR = (frozenset((0, 1)), frozenset((-1, 1)))
LABEL = "Use true or false, or remove the row."
GENERATION = ("generation", "completion", "response", "answer", "output", "reply")
CONTEXT = ("context", "prompt", "question", "query", "instruction", "input")
# The tones of a thumb, and what asks for its picture.
_TONE = re.compile("[\U0001f3fb-\U0001f3ff\ufe0e\ufe0f]")
_GAP = re.compile(r"(?<=\w)[\s_-]+(?=\w)")


def is_judged(values: Values) -> bool:
    label = label_of(values)
    if label is None or verdict(values[label]) is None:
        return False
    return has_turns(values) or (
        columns.find(values, CONTEXT) is not None and columns.find(values, GENERATION) is not None
    )


def label_of(values: Values) -> str | None:
    """Return the column that judges: of several the first that says good or bad, else the first."""
    found = _labels(tuple(values))
    return next((key for key in found if verdict(values[key]) is not None), next(iter(found), None))


@lru_cache(maxsize=1024)
def _labels(keys: tuple[str, ...]) -> tuple[str, ...]:
    # Asked for every row, and the rows of a file have the same few sets of columns.
    own = dict.fromkeys(keys)
    return tuple(key for name in columns.GOOD if (key := columns.find(own, (name,))) is not None)


def verdict(value: object) -> bool | None:
    """Return whether a label says good or bad, or None where it says neither."""
    said = _GAP.sub(" ", _TONE.sub("", str(value)).strip().lower())
    number = _number(value)
    said = said if number is None or not number.is_integer() else str(int(number))
    return True if said in YES else False if said in NO else None


def _number(value: object) -> float | None:
    try:
        return None if isinstance(value, bool) else float(str(value))
    except ValueError:
        return None


def _unsaid(value: object) -> bool:
    return str(value).strip().lower() in UNSAID


def are_judged(rows: Sequence[Values]) -> bool:
    """Whether rows that hold questions and answers are judged ones: most labels, where there are any, say good or bad.

    One that is found bad is enough: taught as if nobody had judged it, it would be learnt as good.
    """
    said = [row[key] for row in rows if (key := label_of(row)) is not None and not _unsaid(row[key])]
    numbers = {number for value in said if (number := _number(value)) is not None}
    if any(number not in (-1, 0, 1) for number in numbers):
        return False
    return 0 < len(said) <= 2 * sum(verdict(value) is not None for value in said)


def are_unsaid(rows: Sequence[Values]) -> bool:
    """Whether none of the rows holds a label, so that a later one may be the first to judge."""
    return all((key := label_of(row)) is None or _unsaid(row[key]) for row in rows)


def unless_bad(read: Callable[[Values], Sequence[Record]], values: Values) -> Sequence[Record]:
    """Return the records of a row as `read` has it. Raises RowFault for one that is found bad: it would be taught."""
    key = label_of(values)
    if key is not None and verdict(values[key]) is False:
        raise RowFault(
            f"'{key}' says that it is bad, and the first rows of the file say neither good nor bad.",
            "Name data.format: judged, or the form whose rows are all to be learnt.",
        )
    return read(values)


def unclear_rating(rows: Sequence[Values]) -> str | None:
    """Return the column with ratings of which nobody can say which are good, and what it holds; None without one."""
    for name in columns.RATING:
        held = [row[key] for row in rows if (key := columns.find(row, (name,))) is not None and not _unsaid(row[key])]
        numbers = {number for value in held if (number := _number(value)) is not None}
        if numbers and len(held) == sum(_number(value) is not None for value in held):
            alone = len(numbers) == 1 and name in ("rating", "user_rating", "stars")
            if alone or not any(numbers <= clear for clear in CLEAR):
                return f"column '{name}' holds {min(numbers):g} to {max(numbers):g}"
    return None


def from_judged(values: Values) -> list[Judged]:
    """A conversation whose last answer is labelled good or bad."""
    label = label_of(values)
    if label is None:
        raise RowFault("no label that says good or bad.", LABEL)
    good = verdict(values[label])
    if good is None:
        said = "empty" if _unsaid(values[label]) else f"'{str(values[label])[:40]}', neither good nor bad"
        raise RowFault(f"'{label}' is {said}.", LABEL)
    if has_turns(values):
        turns = columns.find(values, columns.TURNS)
        assert turns is not None
        messages = with_system(values, turns_of(values[turns], turns))
    else:
        asked, reply = columns.find(values, CONTEXT), columns.find(values, GENERATION)
        if asked is None or reply is None:
            raise RowFault("no prompt or no answer column.", FILL)
        messages = (*prompt_of(values, values[asked], asked), *_generation(values[reply], reply))
    messages = _from_the_first_question(messages)
    check_order(messages)
    return [Judged(messages, good, "", group_of(values), row_tools(values))]


def _generation(value: object, key: str) -> Turns:
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value = parse_json(value, key)
    if isinstance(value, Mapping | list):
        return turns_of(value, key)
    return (Message("assistant", text_of(value, key)),)


def _from_the_first_question(messages: Turns) -> Turns:
    """Return the turns without a greeting that the assistant said before anybody asked."""
    head = tuple(m for m in messages[:1] if m.role == "system")
    rest = messages[len(head) :]
    while rest and rest[0].role == "assistant":
        rest = rest[1:]
    return (*head, *rest)
