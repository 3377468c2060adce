"""Row -> Conversation. A form is recognised by its keys; a new form is a function and a line in FORMS."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from fledge.errors import ConfigError, DataError, Finding, nearest
from fledge.records import Conversation, Message, Role, Row

ROLES: tuple[str, ...] = get_args(Role)
QUESTION_KEYS = ("question", "prompt", "instruction", "query", "input", "q")
ANSWER_KEYS = ("answer", "completion", "response", "output", "reply", "a")


class RowFault(ValueError):
    """What is wrong with one row and what to do; the reader adds where."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.message, self.remedy = message, remedy


@dataclass(frozen=True)
class Form:
    """How one row form is recognised and turned into messages; `meaning` is shown with the guess."""

    recognise: Callable[[Mapping[str, Any]], bool]
    messages: Callable[[Mapping[str, Any]], list[Message]]
    meaning: str
    # Whether the column 'answer' is free to say what a scorer must find, or is the answer itself.
    answer_is_target: bool = False


def to_conversations(
    rows: Sequence[Row], *, form: str = "auto", columns: Mapping[str, str] | None = None
) -> tuple[list[Conversation], str]:
    """Return the rows as conversations and the name of the form they were read as.

    `columns` renames: {"question": "Frage"} reads column Frage as question. Raises ConfigError for an unknown form,
    DataError with every faulty row.
    """
    if form != "auto" and form not in FORMS:
        raise ConfigError(
            "config.bad_value",
            f"data.format '{form}' is not known{nearest(form, list(FORMS)) or '.'}",
            remedy=f"Known: auto, {', '.join(FORMS)}.",
        )
    renamed = [_rename(row, columns or {}) for row in rows]
    name = form if form != "auto" else recognise(renamed[0])
    conversations, findings = [], []
    for row in renamed:
        try:
            conversations.append(_convert(row, FORMS[name]))
        except RowFault as fault:
            findings.append(Finding("data.bad_row", row.origin, fault.message, fault.remedy))
    if findings:
        raise DataError.from_findings(findings)
    return conversations, name


def recognise(row: Row) -> str:
    """Return the name of the first form that fits the row's keys. Raises DataError that names the keys found."""
    for name, form in FORMS.items():
        if form.recognise(row.values):
            return name
    raise DataError(
        "data.unknown_format",
        f"no known form has the columns {', '.join(map(str, row.values)) or '(none)'}.",
        where=row.origin,
        remedy="Use 'question' and 'answer', 'prompt' and 'completion' or 'messages', "
        "or name yours: data: {columns: {question: YOURS, answer: YOURS}}.",
    )


def _rename(row: Row, columns: Mapping[str, str]) -> Row:
    if not columns:
        return row
    missing = [theirs for theirs in columns.values() if theirs not in row.values]
    if missing:
        raise DataError(
            "data.bad_row",
            f"no column '{missing[0]}'{nearest(missing[0], [str(k) for k in row.values]) or '.'}",
            where=row.origin,
            remedy="Mend data.columns in fledge.yaml.",
        )
    taken = set(columns.values())
    kept = {key: value for key, value in row.values.items() if key not in taken}
    return Row({**kept, **{ours: row.values[theirs] for ours, theirs in columns.items()}}, row.origin)


def _convert(row: Row, form: Form) -> Conversation:
    messages = form.messages(row.values)
    check_order(messages)
    target = None if form.answer_is_target else row.values.get("answer")
    group = row.values.get("group")
    return Conversation(
        tuple(messages),
        row.origin,
        answer=None if target is None else _text(target, "answer"),
        # A table has an empty cell where a row belongs to no group.
        group=None if group in (None, "") else str(group),
    )


def check_order(messages: Sequence[Message]) -> None:
    """Raise RowFault unless it is: at most one system message, then user and assistant in turn, assistant last."""
    turns = [m.role for m in messages if m.role != "system"]
    if [m.role for m in messages[1:]].count("system"):
        raise RowFault("a system message stands after the first place.", "Move it to the front.")
    if not turns or turns[0] != "user":
        raise RowFault(
            f"the first turn is from '{turns[0] if turns else 'nobody'}', expected 'user'.", "Add the question."
        )
    for before, after in zip(turns, turns[1:], strict=False):
        if before == after:
            raise RowFault(f"two messages in a row are from '{before}'.", "Join them or add the turn between.")
    if turns[-1] != "assistant":
        raise RowFault(
            f"'messages' ends with role '{turns[-1]}'; the last must be 'assistant' to be taught.",
            "Answer it or remove the row.",
        )


def _text(value: object, key: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RowFault(f"'{key}' is {type(value).__name__}, expected text.", "Mend or remove the row.")
    text = str(value)
    if not text.strip():
        raise RowFault(f"'{key}' is empty.", "Fill it in or remove the row.")
    if not text.isprintable() and any("\ud800" <= character <= "\udfff" for character in text):
        raise RowFault(f"'{key}' holds half of a \\u escape pair, which is no character.", "Mend or remove the row.")
    return text


def _message(value: object, number: int) -> Message:
    if not isinstance(value, Mapping) or not {"role", "content"} <= set(value):
        raise RowFault(f"message {number} is not {{'role': ..., 'content': ...}}.", "Mend or remove the row.")
    role = value["role"]
    if role not in ROLES:
        guess = nearest(str(role), ROLES) or f"; expected one of {', '.join(ROLES)}."
        raise RowFault(f"message {number} has role '{role}'{guess}", "Mend or remove the row.")
    return Message(role, _text(value["content"], f"content of message {number}"))


def _message_list(value: object, key: str) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise RowFault(f"'{key}' is not a list of messages.", "Mend or remove the row.")
    return [_message(item, number) for number, item in enumerate(value, start=1)]


def _from_messages(values: Mapping[str, Any]) -> list[Message]:
    if "messages" not in values:
        raise RowFault("no 'messages'.", "Fill it in or remove the row.")
    return _message_list(values["messages"], "messages")


def _from_prompt_completion(values: Mapping[str, Any]) -> list[Message]:
    for key in ("prompt", "completion"):
        if key not in values:
            raise RowFault(f"no '{key}'.", "Fill it in or remove the row.")
    prompt, completion = values["prompt"], values["completion"]
    before = _message_list(prompt, "prompt") if isinstance(prompt, list) else _system_and_user(values, prompt, "prompt")
    after = (
        _message_list(completion, "completion")
        if isinstance(completion, list)
        else [Message("assistant", _text(completion, "completion"))]
    )
    return before + after


def _system_and_user(values: Mapping[str, Any], question: object, key: str) -> list[Message]:
    system = values.get("system")
    head = [Message("system", _text(system, "system"))] if system else []
    return [*head, Message("user", _text(question, key))]


def _column(values: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """Return the row's own spelling of the first of `names` that it has; case and outer spaces do not matter."""
    spelled = {str(key).strip().lower(): key for key in values}
    return next((spelled[name] for name in names if name in spelled), None)


def _is_question_answer(values: Mapping[str, Any]) -> bool:
    return _column(values, QUESTION_KEYS) is not None and _column(values, ANSWER_KEYS) is not None


def _from_question_answer(values: Mapping[str, Any]) -> list[Message]:
    question, answer = _column(values, QUESTION_KEYS), _column(values, ANSWER_KEYS)
    if question is None or answer is None:
        raise RowFault("no question or no answer column.", "Fill it in or remove the row.")
    asked = values[question]
    extra = values.get("input") if question == "instruction" else None
    if extra:
        # Alpaca's third column: what the instruction is about.
        asked = f"{_text(asked, question)}\n\n{_text(extra, 'input')}"
    return [*_system_and_user(values, asked, question), Message("assistant", _text(values[answer], answer))]


# Tried in this order: the most telling keys first.
FORMS: dict[str, Form] = {
    "messages": Form(lambda v: "messages" in v, _from_messages, "messages with role and content"),
    "prompt_completion": Form(
        lambda v: {"prompt", "completion"} <= set(v), _from_prompt_completion, "a prompt and its completion"
    ),
    "question_answer": Form(
        _is_question_answer, _from_question_answer, "a question column and an answer column", answer_is_target=True
    ),
}
