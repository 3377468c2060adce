"""A list of facts, in whatever file people keep one -> Fact: what is so, and the words that an answer must keep.

Plain lines, YAML, CSV and every other kind of rows are read. A fact needs nothing but its text:

    The Kettlewren costs **149 euros**.                                  # a line; what is starred is kept word for word
    - {fact: The lamp is oiled at dusk., keys: [dusk], questions: [when to oil the lamp]}                        # YAML
    fact,keys,question,answer                                                                                    # CSV
    {"module": "json", "code": "import json", "questions": ["write a dict as JSON"]}                           # JSONL

What stands in other columns are values that a template asks for by name (module, code). A question is one that people
ask ("What does it cost?") or what they want to do or know ("turn a dict into JSON", "the price of the Kettlewren").
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fledge.data import columns
from fledge.data.forms.turns import RowFault, text_of
from fledge.data.readers import books
from fledge.data.readers.opening import find_encoding, lines_of, open_text
from fledge.data.sources import no_rows, open_source
from fledge.errors import DataError, Finding
from fledge.records import Row

FACT = ("fact", "text", "statement", "sentence")
KEYS = ("keys", "key", "key_strings", "must_keep", "keep", "keywords")
QUESTIONS = ("questions", "question", "ask", "asks", "wordings", "wording", "task", "train")
ANSWER = ("answer", "reply", "response", "completion")
GROUP = ("group", "id", "name")
PLAIN_KINDS = frozenset(("text", "markdown", "rst", "chat"))
# What stands in one cell or line for several.
_SEVERAL = re.compile(r"\s*(?:\n|\s\|\s|;\s)\s*")
_STARRED = re.compile(r"\*\*(.+?)\*\*")
_BULLET = re.compile(r"^\s*(?:[-*+•]|\d{1,3}[.)])\s+")
# What an answer must not lose, where nobody says so: code, quotes, addresses, numbers with their unit, names.
_TELLING = re.compile(
    r"`[^`\n]+`|\"[^\"\n]{2,60}\"|“[^”\n]{2,60}”|\bhttps?://[^\s)]+[^\s).,]|\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+"
    r"|[$€£]?\d+(?:[.,:/-]\d+)*(?:\s?%|\s?°?[A-Za-zµ€]{1,8}\b)?"
    r"|(?<=[a-z,;:)] )[A-Z][\w'-]+(?: [A-Z0-9][\w'-]*)*"
)
# A word between a number and the next is no unit.
_NO_UNIT = re.compile(r"\s(?:and|or|to|of|in|on|at|by|for|the|a|is|as|with|per|from|times?)$")
# A name that so large a share of the facts holds is what they are about.
TOPIC_SHARE = 1 / 3


@dataclass(frozen=True)
class Fact:
    """One thing to teach: `where` it stands (file:line), and the `keys` that an answer must hold word for word.

    questions: wordings of what is asked; () where a person or a model has to find some. answer: the whole reply, or ""
    where a template or the text gives it. values: columns of its own, by name. guessed: the keys were taken from the
    text. group: what ties it to its rows, unique in a list.
    """

    text: str
    where: str
    keys: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    answer: str = ""
    values: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    group: str = ""
    guessed: bool = False


def read_facts(path: Path) -> list[Fact]:
    """Return the facts of a file, in order.

    Raises DataError: a missing, empty or foreign file, and all faulty facts at once; a fact whose keys stand neither in
    its text nor in its answer is one.
    """
    facts: list[Fact] = []
    findings: list[Finding] = []
    for row in _rows(path):
        fact = row if isinstance(row, Finding) else _fact(row)
        if isinstance(fact, Finding):
            findings.append(fact)
        else:
            facts.append(fact)
    if findings:
        raise DataError.from_findings(findings)
    if not facts:
        raise no_rows(path)
    return _named(_with_keys(facts))


def _rows(path: Path) -> Iterator[Row | Finding]:
    source = open_source(path)
    if source.kind in PLAIN_KINDS:
        yield from _lines(path)
    elif source.kind == "yaml":
        yield from _yaml_rows(path)
    else:
        yield from source.rows


def _lines(path: Path) -> Iterator[Row]:
    """Yield every line that says something; headings and what begins with # say nothing."""
    with open_text(path, find_encoding(path)) as file:
        for number, line in enumerate(lines_of(file), start=1):
            text = _BULLET.sub("", line).strip().lstrip("\ufeff")
            if text and not text.startswith("#") and text.strip("-=*_ "):
                yield Row({"fact": text}, f"{path}:{number}")


def _yaml_rows(path: Path) -> Iterator[Row | Finding]:
    for name, value, where in books.read_yaml_items(path, find_encoding(path)):
        if isinstance(value, Finding):
            yield value
        elif isinstance(value, str):
            yield Row({"fact": value, **({"group": name} if name else {})}, where)
        elif isinstance(value, dict):
            yield Row({**({"group": name} if name else {}), **value}, where)
        else:
            yield Finding("data.bad_row", where, "is a list, expected a fact.", "Write its text, or 'fact: its text'.")


def _fact(row: Row) -> Fact | Finding:
    named = {columns.spelled(name): value for name, value in row.values.items() if value not in ("", None, [], ())}
    try:
        text, answer = (_one(named, names) for names in (FACT, ANSWER))
        keys, questions = (_several(named, names) for names in (KEYS, QUESTIONS))
        group = _one(named, GROUP)
        values = {
            name: text_of(value, name)
            for name, value in named.items()
            if isinstance(value, str | int | float) and name not in (*FACT, *KEYS, *QUESTIONS, *ANSWER, *GROUP)
        }
    except RowFault as fault:
        return Finding("data.bad_row", row.origin, fault.message, fault.remedy)
    starred = tuple(match[1] for match in _STARRED.finditer(text))
    text = _STARRED.sub(r"\1", text)
    text = text or answer or "\n".join(f"{name}: {value}" for name, value in values.items())
    if not text:
        message = f"no fact in the columns {', '.join(map(str, row.values)) or '(none)'}."
        return Finding("data.bad_row", row.origin, message, "Put what is so into the column 'fact'.")
    keys = tuple(dict.fromkeys((*starred, *keys)))
    everything = "\n".join((text, answer, *values.values())).casefold()
    if lost := next((key for key in keys if key.casefold() not in everything), None):
        message = f"its key '{lost}' stands neither in its text nor in its answer."
        return Finding("data.bad_row", row.origin, message, "Write the key as the text has it.")
    return Fact(text, row.origin, keys, questions, answer, MappingProxyType(values), group)


def _one(named: Mapping[str, Any], names: Sequence[str]) -> str:
    key = columns.find(named, names)
    return text_of(named[key], key).strip() if key else ""


def _several(named: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    key = columns.find(named, names)
    if key is None:
        return ()
    held = named[key] if isinstance(named[key], list | tuple) else _SEVERAL.split(text_of(named[key], key))
    return tuple(dict.fromkeys(text for item in held if (text := text_of(item, key).strip())))


def _with_keys(facts: Sequence[Fact]) -> list[Fact]:
    """Return the facts with keys for those that name none: all values, or what is telling in the text."""
    names = Counter(piece.casefold() for fact in facts for piece in set(_telling(fact.text)))
    topics = {name for name, count in names.items() if len(facts) > 2 and count > TOPIC_SHARE * len(facts)}

    def guess(fact: Fact) -> Fact:
        if fact.keys:
            return fact
        asked = " ".join(fact.questions).casefold()
        held = list(fact.values.values()) if fact.values else _telling(fact.answer or fact.text)
        keys = [key for key in held if fact.values or (key.casefold() not in topics and key.casefold() not in asked)]
        return replace(fact, keys=tuple(dict.fromkeys(keys)), guessed=True)

    return [guess(fact) for fact in facts]


def _telling(text: str) -> list[str]:
    found = (_NO_UNIT.sub("", match[0]).strip('`"“” ') for match in _TELLING.finditer(text))
    return [piece for piece in found if piece]


def _named(facts: Sequence[Fact]) -> list[Fact]:
    """Return the facts with a group each that no other has."""
    taken: Counter[str] = Counter()
    named = []
    for number, fact in enumerate(facts, start=1):
        group = fact.group or f"fact-{number}"
        taken[group] += 1
        named.append(replace(fact, group=group if taken[group] == 1 else f"{group}-{taken[group]}"))
    return named
