"""Records -> the rows that an objective learns from: answers, pairs of answers, or judged answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from fledge.data.formats import Reading, as_conversation, taught_of
from fledge.data.sources import no_rows
from fledge.errors import DataError, Finding
from fledge.records import Conversation, Judged, Learnt, Message, Preference, Problem, Record, RowKind, Taught, Text

# What each objective learns from, and how many examples a row of each kind is.
LEARNS_FROM: Mapping[str, RowKind] = {
    "sft": "answers",
    "text": "answers",
    "dpo": "pairs",
    "ipo": "pairs",
    "orpo": "pairs",
    "simpo": "pairs",
    "kto": "judged",
    "reward": "pairs",
    "grpo": "prompts",
    "rloo": "prompts",
    "ppo": "prompts",
}
UNITS: Mapping[RowKind, int] = {"answers": 1, "pairs": 2, "judged": 1, "prompts": 1}
WANTED: Mapping[RowKind, str] = {
    "pairs": "pairs of a better and a worse answer",
    "judged": "answers that are judged good or bad",
    "prompts": "prompts to be answered and rewarded",
}
# Which objective learns all of a record.
FITTING: Mapping[type, str] = {
    Preference: "dpo (or ipo, orpo, simpo, reward), which learns from both answers",
    Judged: "kto, which learns from good answers and from bad ones",
    Conversation: "sft, which learns the answers",
    Problem: "sft, which learns the answers, or grpo, which learns from rewards",
    Text: "text, which learns the text itself",
}


def rows_for(reading: Reading, path: Path, kind: RowKind) -> list[Learnt]:
    """Return the rows of a file that an objective of this kind learns from.

    Of answers, what `taught_of` gives. Of judged answers, a preference is a good one and a bad one. Of prompts, what is
    asked and the answer that a reward may check by: a conversation's last one, where it says no other.

    Raises DataError with every faulty row, for a file without rows, and for one that holds nothing of the kind, with
    the objective that fits.
    """
    if kind == "answers":
        return list(taught_of(reading, path))
    found: list[Learnt] = []
    findings: list[Finding] = []
    other: Record | None = None
    for record in reading.records:
        if isinstance(record, Finding):
            findings.append(record)
        elif own := list(_taken(record, kind)):
            found += own
        else:
            other = record
    if findings:
        raise DataError.from_findings(findings)
    if other is None and not found:
        raise no_rows(path)
    if other is not None:
        raise DataError(
            "data.other_objective",
            f"read as {reading.form}: it holds no {WANTED[kind]}.",
            where=other.origin if found else str(path),
            remedy=f"Set objective: {FITTING[type(other)]}; or name the form in data.format.",
        )
    return found


def for_answers(reading: Reading, path: Path) -> Reading:
    """Return the reading; raise DataError where learning the answers alone would leave half of the rows out untold."""
    first = next(reading.records, None)
    if isinstance(first, Preference | Judged):
        what = "the worse answers" if isinstance(first, Preference) else "the bad answers"
        raise DataError(
            "data.other_objective",
            f"read as {reading.form}: {what} would be left out.",
            where=str(path),
            remedy=f"Set objective: {FITTING[type(first)]}; or, to learn the better answers alone, name the form: "
            f"data.format={reading.form}.",
        )
    return replace(reading, records=chain([] if first is None else [first], reading.records))


def _taken(record: Record, kind: RowKind) -> Iterator[Learnt]:
    if kind == "prompts":
        if isinstance(record, Problem):
            bare = Conversation(record.prompt, record.origin, None, record.group, record.tools)
            yield as_conversation(record) or bare
        elif isinstance(record, Conversation) and record.prompt:
            yield record
        return
    if isinstance(record, Preference) and kind == "judged":
        group = record.group or record.origin
        for answer, good in ((record.chosen, True), (record.rejected, False)):
            yield Judged((*record.prompt, *answer), good, record.origin, group, record.tools)
    elif isinstance(record, Preference if kind == "pairs" else Judged):
        yield record


def sides(row: Learnt) -> list[Conversation | Text]:
    """Return what of a row is turned into tokens: of a pair the chosen and the rejected answer, in this order.

    In pairs and judged rows only what follows the prompt is taught.
    """
    match row:
        case Preference():
            return [_said(row.prompt, answer, row) for answer in (row.chosen, row.rejected)]
        case Judged():
            return [_said(row.messages[:-1], row.messages[-1:], row)]
        case _:
            return [row]


def answers_of(rows: Sequence[Learnt]) -> list[Taught]:
    """Return what rows of any kind give to ask and to answer: of a pair the better answer, of judged ones the good.

    A bare prompt, which only a reward knows the answer to, gives nothing.
    """
    found = (row if isinstance(row, Text) else as_conversation(row) for row in rows)
    return [row for row in found if isinstance(row, Text) or (row is not None and row.messages[-1].role == "assistant")]


def _said(prompt: tuple[Message, ...], answer: tuple[Message, ...], row: Preference | Judged) -> Conversation:
    read = tuple(replace(message, taught=False) for message in prompt)
    return Conversation((*read, *answer), row.origin, None, row.group, row.tools, row.task)
