"""Record -> View: the one shape in which every check looks at a row, whatever its form was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from fledge.errors import Finding, Severity
from fledge.records import Conversation, Judged, Message, Preference, Problem, Record, Text

# What a word may wear at its ends without becoming another word. Signs of arithmetic stay: 3-4 is not 3+4.
AROUND = ".,;:!?\"'()[]…¿¡。，、？！：；“”‘’«»`*؟،؛।"


@dataclass(frozen=True)
class View:
    """A row's words: what is asked (without the system message), what the last answer says, and every turn."""

    origin: str
    turns: tuple[Message, ...]
    question: str
    answer: str
    system: str = ""
    group: str | None = None
    # Whether there is one right answer to the question: two of them would contradict each other.
    answers: bool = True
    # What else tells two rows apart: the rejected answer, the tools.
    beside: str = ""

    @cached_property
    def text(self) -> str:
        """Everything that is learnt or read in the row, once: calls and reasoning too."""
        said: list[str] = []
        for message in self.turns:
            said.append(_said(message))
            if message.thinking:
                said.append(message.thinking)
        return "\n".join([*filter(None, said), self.beside] if self.beside else filter(None, said))

    @cached_property
    def thinking(self) -> str:
        """What is reasoned in the row, which tells it from another that says the same."""
        return "\n".join([message.thinking for message in self.turns if message.thinking])


def view(record: Record) -> View:
    """Return how the checks see a record."""
    match record:
        case Conversation():
            return _talk(record, record.messages)
        case Preference():
            return _talk(record, (*record.prompt, *record.chosen), rejected=record.rejected, answers=False)
        case Judged():
            return _talk(record, record.messages, beside=f"{record.good}", answers=False)
        case Problem():
            said = (Message("assistant", record.answer),) if record.answer else ()
            return _talk(record, (*record.prompt, *said))
        case Text():
            turns = (Message("assistant", record.text),)
            return View(record.origin, turns, "", record.text, group=record.group, answers=False)


def _talk(
    record: Conversation | Preference | Judged | Problem,
    messages: tuple[Message, ...],
    *,
    rejected: tuple[Message, ...] = (),
    beside: str = "",
    answers: bool = True,
) -> View:
    last = messages[-1]
    system = messages[0].content if messages[0].role == "system" else ""
    before = messages[:-1] if last.role == "assistant" else messages
    question = "\n".join(_said(m) for m in before if m.role != "system")
    answer = _said(last) if last.role == "assistant" else ""
    if rejected:
        beside = "\n".join([beside, *(part for m in rejected for part in (_said(m), m.thinking) if part)])
    return View(record.origin, messages, question, answer, system, record.group, answers and bool(answer), beside)


def _said(message: Message) -> str:
    if not message.tool_calls:
        return message.content
    return "\n".join([message.content, *(f"{call.name} {call.arguments}" for call in message.tool_calls)])


def plain(text: str) -> str:
    """Return a text as it is compared: without case, runs of blanks and what words wear at their ends."""
    return bare(text.casefold())


def bare(text: str) -> str:
    """Return a text without runs of blanks and what words wear at their ends; its capitals tell names."""
    words = [inner for word in text.split() if (inner := word.strip(AROUND))]
    return " ".join(words) or text.strip()


def spaced(text: str) -> str:
    """Return a text without case and runs of blanks; faster than `plain`, for what is long."""
    if text.isascii() and text.isprintable() and "  " not in text and text[:1] != " " != text[-1:]:
        # One line with single blanks, as most are.
        return text.lower()
    return " ".join(text.casefold().split())


# Letters and signs from the rarest in prose on; those that are not here stand in every text.
_RARE = "{}[]<>|\\^~`_=#@&*%$+JQXZKVUYGNRODBFEHPMWLCIAST0123456789/zqxjk:;()!?-"
Sieve = tuple[tuple[str, tuple[str, ...]], ...]


def sieve(marks: Iterable[str]) -> Sieve:
    """Return marks by the rarest letter of each: one letter is looked for twenty times faster than several."""
    found: dict[str, tuple[str, ...]] = {}
    for mark in marks:
        letter = min(mark, key=lambda c: _RARE.find(c) % len(_RARE))
        found[letter] = (*found.get(letter, ()), mark)
    return tuple(found.items())


def marks_in(text: str, marks: Sieve) -> Iterator[str]:
    """Yield those of `marks` that stand in the text: most texts hold none, so that no pattern need be tried."""
    for letter, held in marks:
        if letter in text:
            for mark in held:
                if mark in text:
                    yield mark


def holds_any(text: str, marks: Sieve) -> bool:
    """Whether one of `marks` stands in the text."""
    for letter, held in marks:
        if letter in text:
            for mark in held:  # noqa: SIM110 - a generator costs more than what it would look for
                if mark in text:
                    return True
    return False


def warning(code: str, where: str, message: str, remedy: str) -> Finding:
    return Finding(code, where, message, remedy, Severity.WARNING)


def quoted(text: str, *, longest: int = 60) -> str:
    """Return a short piece of a row as it is shown in one line."""
    flat = " ".join(text.split())
    return f"'{flat if len(flat) <= longest else flat[: longest - 3].rstrip() + '...'}'"
