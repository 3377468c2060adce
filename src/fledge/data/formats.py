"""Rows -> records. A form is recognised by its columns and by what stands in them; a new form is one line in FORMS."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from fledge.config import DataConfig
from fledge.data.forms import chats, conversations, judgements, preferences, texts, turn_rows
from fledge.data.forms.turns import RowFault
from fledge.data.sources import Source, by_place, no_rows, open_source
from fledge.errors import ConfigError, DataError, Finding, nearest
from fledge.records import Conversation, Judged, Message, Preference, Problem, Record, Row, Taught, Text

# The form is decided by so many first rows.
SAMPLE_ROWS = 200
# A column with at most this many different values, each coming often, names classes.
MAX_CLASSES = 40
SHOWN_COLUMNS = 8
# A column is tried in so many rows that have it.
TRIED_ROWS = 5

Values = Mapping[str, Any]
Mend = Callable[[Row, RowFault], Sequence[Record]]


@dataclass(frozen=True)
class Form:
    """How one form is recognised and read; `meaning` is shown with the guess.

    nested: the row is a structure of its own, which cannot be read in part; a row that does not fit is none.
    bookkeeping: columns that say how to read the others, and nothing of their own.
    """

    fits: Callable[[Values], bool]
    records: Callable[[Values], Sequence[Record]]
    meaning: str
    nested: bool = False
    bookkeeping: frozenset[str] = frozenset()

    def read(self, values: Values) -> Sequence[Record]:
        """Return the records of a row. Raises RowFault for what is wrong with it."""
        if self.nested and not self.fits(values):
            raise RowFault(f"is not {self.meaning}, as other rows are.")
        return self.records(values)


# Tried in this order: the most telling comes first.
FORMS: dict[str, Form] = {
    "openai_export": Form(
        chats.is_openai_export,
        chats.from_openai_export,
        "conversations of a ChatGPT export",
        nested=True,
        bookkeeping=frozenset(("current_node",)),
    ),
    "chat_export": Form(chats.is_chat_export, chats.from_chat_export, "a chat between people", nested=True),
    "preference": Form(preferences.is_preference, preferences.from_preference, "a chosen and a rejected answer"),
    "reply_tree": Form(preferences.is_reply_tree, preferences.from_reply_tree, "a tree of ranked replies", nested=True),
    "ranked": Form(preferences.is_ranked, preferences.from_ranked, "answers with ranks or scores", nested=True),
    "judged": Form(judgements.is_judged, judgements.from_judged, "an answer labelled good or bad"),
    "messages": Form(conversations.has_turns, conversations.from_turns, "turns with a role and what was said"),
    "instances": Form(
        conversations.has_instances, conversations.from_instances, "one instruction with several answers", nested=True
    ),
    "prompt_completion": Form(
        conversations.is_prompt_completion, conversations.from_prompt_completion, "a prompt and its completion"
    ),
    "question_answer": Form(
        conversations.is_question_answer, conversations.from_question_answer, "a question and its answer"
    ),
    "problem": Form(texts.is_problem, texts.from_problem, "a prompt and what a right answer comes to"),
    "segments": Form(conversations.has_segments, conversations.from_segments, "utterances in segments with an intent"),
    "classes": Form(conversations.is_class, conversations.from_class, "a text and its class"),
    "transcript": Form(texts.is_transcript_row, texts.from_transcript, "conversations written out"),
    "prompt": Form(texts.is_bare_prompt, texts.from_problem, "prompts without an answer"),
    "text": Form(texts.is_text, texts.from_text, "text as it stands"),
}


# Rows of these hold an answer that somebody may have judged.
ANSWERED = ("judged", "messages", "prompt_completion", "question_answer")


@dataclass(frozen=True)
class Reading:
    """How the rows of a file are read: `form`, why, and what is renamed. `records` yields them one by one.

    `columns` and `me` read other rows of the file in the same way. `whole`: rows of the file make one record together.
    """

    form: str
    why: str
    records: Iterator[Record | Finding]
    columns: Mapping[str, str] = field(default_factory=dict)
    me: str | None = None
    whole: bool = False


def read_records(
    rows: Iterable[Row | Finding],
    *,
    form: str = "auto",
    columns: Mapping[str, str] | None = None,
    me: str | None = None,
    mend: Mend | None = None,
) -> Reading:
    """Return the rows as records, read one by one; a faulty row gives a Finding in its place.

    `columns` renames: {"question": "Frage"} reads column Frage as question. `me`: whose messages a chat export teaches.
    `mend` is given each faulty row and its fault, and returns what stands in for it; it may raise the fault again.
    Raises ConfigError for an unknown form, DataError where no form fits the first rows.
    """
    if form != "auto" and form not in FORMS:
        raise ConfigError(
            "config.bad_value",
            f"data.format '{form}' is not known{nearest(form, list(FORMS)) or '.'}",
            remedy=f"Known: auto, {', '.join(FORMS)}.",
        )
    stream = iter(rows)
    head: list[Row | Finding] = list(islice(stream, SAMPLE_ROWS))
    chat_rows = False
    sample = [renamed for row in head if isinstance(row, Row) and isinstance(renamed := rename(row, columns), Row)]
    if form == "auto" and sample and sum(chats.is_chat_row(row.values) for row in sample) > len(sample) / 2:
        # A table of messages: all rows together are the chat.
        whole = {"messages": [row.values for row in chain(head, stream) if isinstance(row, Row)]}
        chat = Row(whole, sample[0].origin)
        head, stream, sample, chat_rows = [chat], iter(()), [chat], True
    elif form == "auto" and not columns and turn_rows.are_turns(sample):
        stream = turn_rows.conversations_of(chain(head, stream))
        head, chat_rows = list(islice(stream, SAMPLE_ROWS)), True
        sample = [row for row in head if isinstance(row, Row)]
    why, renames = "named in data.format", dict(columns or {})
    unnamed = form == "auto"
    if unnamed:
        form, why, guessed = recognise(sample) if sample else ("text", "nothing to go by", {})
        renames |= guessed
    found = FORMS[form]
    if unnamed and form in ANSWERED and judgements.are_unsaid([row.values for row in sample]):
        found = replace(found, records=partial(judgements.unless_bad, found.records))
    if form == "chat_export":
        me = me or chats.author_of([row.values for row in sample])
        found = replace(found, records=partial(chats.from_chat_export, me=me))
        why += f"; taught is what '{me}' wrote (data.me names another)"
    records = _records(chain(head, stream), found, renames, mend)
    return Reading(form, why, records, renames, me, chat_rows)


def open_records(
    path: Path,
    told: DataConfig,
    *,
    through: Callable[[Iterable[Row | Finding]], Iterable[Row | Finding]] = iter,
    mend: Mend | None = None,
) -> tuple[Source, Reading]:
    """Return a file and its rows as records, as `told` in fledge.yaml; rows go `through` a function first.

    Raises what open_source and read_records raise.
    """
    source = open_source(path, encoding=told.encoding, headless=by_place(told.columns))
    rows = through(source.rows)
    return source, read_records(rows, form=told.format, columns=told.columns, me=told.me, mend=mend)


def _records(
    rows: Iterable[Row | Finding], form: Form, columns: Mapping[str, str], mend: Mend | None
) -> Iterator[Record | Finding]:
    for row in rows:
        if isinstance(row, Row):
            row = rename(row, columns)
        if isinstance(row, Finding):
            yield row
            continue
        try:
            try:
                records = form.read(row.values)
            except RowFault as fault:
                if mend is None:
                    raise
                records = mend(row, fault)
            for record in records:
                yield replace(record, origin=row.origin)
        except RowFault as fault:
            yield Finding("data.bad_row", row.origin, fault.message, fault.remedy)


def rename(row: Row, columns: Mapping[str, str] | None) -> Row | Finding:
    """Return the row with its columns called as the forms call them."""
    if not columns:
        return row
    missing = [theirs for theirs in columns.values() if theirs not in row.values]
    if missing:
        message = f"no column '{missing[0]}'{nearest(missing[0], [str(k) for k in row.values]) or '.'}"
        return Finding("data.bad_row", row.origin, message, "Mend data.columns in fledge.yaml.")
    taken = set(columns.values())
    kept = {key: value for key, value in row.values.items() if key not in taken and key not in columns}
    return Row({**kept, **{ours: row.values[theirs] for ours, theirs in columns.items()}}, row.origin)


def unread_columns(reading: Reading, head: Sequence[Row]) -> list[str]:
    """Return the columns of some rows that say nothing in their records: without them the records are the same."""
    if reading.whole:
        # The columns of single messages, all of them read or none of a row's own.
        return [name for name in _named(head) if name not in chats.READ and name not in turn_rows.READ]
    form = FORMS[reading.form]
    found = []
    for name, rows in _named(head).items():
        if name not in form.bookkeeping and all(_same_without(name, row, form, reading.columns) for row in rows):
            found.append(name)
    return found


def _named(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return each column's name with a few of the rows in which it holds something."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        for name, value in row.values.items():
            if value not in (None, "", [], {}) and len(held := found.setdefault(str(name), [])) < TRIED_ROWS:
                held.append(row)
    return found


def _same_without(name: str, row: Row, form: Form, columns: Mapping[str, str]) -> bool:
    less = Row({key: value for key, value in row.values.items() if str(key) != name}, row.origin)
    both = [rename(one, columns) for one in (row, less)]
    try:
        whole, rest = (form.read(one.values) for one in both if isinstance(one, Row))
    except ValueError:
        # One cannot be read, or has lost a column that was named: it was read.
        return False
    return whole == rest


def recognise(sample: Sequence[Row]) -> tuple[str, str, dict[str, str]]:
    """Return (form, why, columns to rename) for some first rows: the form that fits most of them, the first of equals.

    Raises DataError that names the columns found.
    """
    counts = {name: sum(form.fits(row.values) for row in sample) for name, form in FORMS.items()}
    # Every question is a prompt: rows without an answer among others are faulty, and no form of their own.
    best = max(counts, key=lambda name: counts[name] / (2 if name == "prompt" else 1))
    if best in ANSWERED:
        best = _judged_or(best, sample)
    if counts[best]:
        return best, FORMS[best].meaning, {}
    if guess := _by_content(sample):
        renames, told = guess
        return "classes", told, renames
    names = [str(name) for name in sample[0].values]
    found = ", ".join(names[:SHOWN_COLUMNS]) + (", ..." if len(names) > SHOWN_COLUMNS else "") or "(none)"
    raise DataError(
        "data.unknown_format",
        f"no known form has the columns {found}.",
        where=sample[0].origin,
        remedy="Use 'question' and 'answer', 'prompt' and 'completion' or 'messages', "
        "or name yours: data: {columns: {question: YOURS, answer: YOURS}}; without a header, by place: '1', '2'.",
    )


def _judged_or(form: str, sample: Sequence[Row]) -> str:
    """Return "judged" where the answers of `form` are. Raises DataError for ratings that leave open which are good."""
    rows = [row.values for row in sample]
    if unclear := judgements.unclear_rating(rows):
        raise DataError(
            "data.unknown_format",
            f"{unclear}: which answers are good cannot be told.",
            where=sample[0].origin,
            remedy="Write true or false there, or teach them all: data.format: question_answer (or messages).",
        )
    if judgements.are_judged(rows):
        return "judged"
    if form != "judged":
        return form
    # Numbers such as those of classes: what else the rows are.
    others = {name: sum(FORMS[name].fits(row) for row in rows) for name in ANSWERED if name != "judged"}
    return max(others, key=lambda name: others[name])


def _by_content(sample: Sequence[Row]) -> tuple[dict[str, str], str] | None:
    """Return which columns hold texts and their classes, judged by what stands in them, and why."""
    texts_by_column: dict[str, list[str]] = {}
    for row in sample:
        for name, value in row.values.items():
            if isinstance(value, str) and value.strip():
                texts_by_column.setdefault(str(name), []).append(value.strip())
    full = {name: held for name, held in texts_by_column.items() if len(held) > 0.9 * len(sample)}
    kinds = {name: Counter(held) for name, held in full.items()}
    classes = [
        name
        for name, counted in kinds.items()
        if 2 <= len(counted) <= min(MAX_CLASSES, len(sample) / 10) and not any(_is_number(value) for value in counted)
    ]
    worded = [
        name
        for name, held in full.items()
        if name not in classes and sum(" " in value for value in held) > 0.8 * len(held) and len(kinds[name]) > 2
    ]
    if len(classes) != 1 or len(worded) != 1:
        return None
    shown = ", ".join(value for value, _ in kinds[classes[0]].most_common(4))
    told = f"texts in column '{worded[0]}', their classes ({shown}) in column '{classes[0]}': guessed from the cells"
    return {"text": worded[0], "label": classes[0]}, told


def _is_number(value: str) -> bool:
    try:
        float(value.replace(",", "."))
    except ValueError:
        return False
    return True


def taught_of(reading: Reading, path: Path) -> list[Taught]:
    """Return what is taught of a file: conversations, and texts as they stand.

    Of a preference the chosen answer is taught, of judged answers the good ones, of a problem its answer.

    Raises DataError with every faulty row, for a file without rows, and for one that holds nothing to answer.
    """
    found: list[Taught] = []
    findings: list[Finding] = []
    num_records = 0
    for record in reading.records:
        if isinstance(record, Finding):
            findings.append(record)
            continue
        num_records += 1
        if (taught := record if isinstance(record, Text) else as_conversation(record)) is not None:
            found.append(taught)
    if findings:
        raise DataError.from_findings(findings)
    if not num_records:
        raise no_rows(path)
    if not found:
        raise DataError(
            "data.nothing_taught",
            f"read as {reading.why}: nothing in it answers a question.",
            where=str(path),
            remedy="Give rows with questions and answers, or name the form in data.format.",
        )
    return found


def as_conversation(record: Record) -> Conversation | None:
    """Return what a record teaches as a conversation; None where it teaches none."""
    match record:
        case Conversation():
            return record
        case Preference():
            return Conversation((*record.prompt, *record.chosen), record.origin, None, record.group, record.tools)
        case Judged():
            return (
                Conversation(record.messages, record.origin, None, record.group, record.tools) if record.good else None
            )
        case Problem():
            said = Message("assistant", record.answer)
            whole = Conversation((*record.prompt, said), record.origin, record.answer, record.group, record.tools)
            return whole if record.answer else None
        case Text():
            return None
