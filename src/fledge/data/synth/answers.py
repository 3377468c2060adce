"""Seed answers -> the template that they share: what is fixed, what is the fact's, where the question is said again.

This is anti-unification (Plotkin 1970): the least general text with gaps that every answer is an instance of. Answers
of equally many lines are compared line by line, others as wholes; in each, what all begin with and end with is fixed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fledge.data.columns import spelled

# Stands for the question inside an answer while answers are compared; no text holds it.
_ASKED = "\0"
_LABEL = re.compile(r"(?:<([\w-]+)>|\"([\w -]+)\"\s*:\s*\"?|([\w][\w /-]*?)\s*(?:[:=]|->)\s*[\"'`(\[]?)\Z")
# A label anywhere in a fixed beginning: what follows it is the value, whatever all values begin with.
_LABELLED = re.compile(r"(?:^|\n|\{|, )\s*[\"'*_]*\w[\w /-]{0,30}[\"'*_]*\s*(?::|=|->)\s*[\"'`]?|<[\w-]+>")
_SENTENCE_END = re.compile(r"(?:^|[.!?:\n]\s*|[\n>])\Z")
_SENTENCE_START = re.compile(r"\A(?:\s*\Z|\s+\W*[A-Z0-9\0]|\s*\n|<|[\"'`)\]}]+\W*\Z)")
# Where one value of a JSON object on one line ends and the next key begins.
_NEXT_KEY = re.compile(r', (?="[\w -]+": )')
_OPENERS = {")": "(", "]": "[", "}": "{", '"': '"', "'": "'", "`": "`"}


@dataclass(frozen=True)
class Slot:
    """A gap in the template. `label` is what stands before it ("module"), spelled as columns are; "" for none."""

    label: str


@dataclass(frozen=True)
class AnswerTemplate:
    """Fixed texts (str), the question said again (None) and slots, in order.

    `num_seeds` says how many answers it was learnt from: from one nothing is known to be fixed but the question.
    """

    parts: tuple[str | Slot | None, ...]
    num_seeds: int = 0
    is_json: bool = False

    @property
    def slots(self) -> list[Slot]:
        return [part for part in self.parts if isinstance(part, Slot)]

    @property
    def is_free(self) -> bool:
        """Whether the answers have nothing in common: the template is one slot."""
        return len(self.parts) == 1 and isinstance(self.parts[0], Slot)

    @property
    def shown(self) -> str:
        """The template as a person reads it: {question}, {module}."""
        return "".join(
            part if isinstance(part, str) else "{question}" if part is None else f"{{{part.label or 'answer'}}}"
            for part in self.parts
        )

    def render(self, question: str, values: Sequence[str]) -> str:
        """Return the answer to `question` with one value for each slot, in order."""
        assert len(values) == len(self.slots), (values, self.parts)
        left = iter(values)
        pieces = []
        for part in self.parts:
            text = part if isinstance(part, str) else question if part is None else next(left)
            pieces.append(_inside(text, self.is_json and not isinstance(part, str)))
        return "".join(pieces)

    def fits(self, question: str, answer: str) -> bool:
        """Whether the whole answer is an instance of the template for this question, no slot empty."""
        return self.values_in(question, answer) is not None

    def values_in(self, question: str, answer: str) -> list[str] | None:
        """Return what stands in the slots, or None where the answer is no instance."""
        # A slot of a line stays in its line; one that is the whole answer, or the middle of one, may hold several.
        slot = r"([^\n]*[^\s][^\n]*)" if len(self.slots) > 1 else r"([\s\S]*\S[\s\S]*)"
        asked = re.escape(_inside(question, self.is_json))
        pattern = "".join(
            re.escape(part) if isinstance(part, str) else asked if part is None else slot for part in self.parts
        )
        found = re.fullmatch(pattern, answer)
        return None if found is None else list(found.groups())


FREE = AnswerTemplate((Slot(""),))


def learn(pairs: Sequence[tuple[str, str]], *, sentences: bool) -> AnswerTemplate:
    """Return the template of some (question, answer) pairs.

    sentences: what facts put into a slot are whole sentences, so a fixed text ends and begins with one. Otherwise it
    may stop at any word.
    """
    if not pairs:
        return FREE
    is_json = all(_is_object(answer) for _, answer in pairs)
    marked = [_marked(question, answer, is_json) for question, answer in pairs]
    parts: list[str | Slot | None] = []
    if len(set(marked)) == 1:
        parts = _cut(marked[0]) if _ASKED in marked[0] else [Slot("")]
        return AnswerTemplate(tuple(parts), len(pairs), is_json)
    between = ", " if is_json and not any("\n" in text for text in marked) else "\n"
    lines = [_NEXT_KEY.split(text) if between == ", " else text.split("\n") for text in marked]
    if len({len(own) for own in lines}) == 1:
        for number, column in enumerate(zip(*lines, strict=True)):
            parts += [between] if number else []
            parts += _unified(column, sentences=sentences)
    else:
        parts = _unified(marked, sentences=True)
    found = AnswerTemplate(tuple(_joined(parts)), len(pairs), is_json)
    # Where a gap would be empty in one of them, nothing is fixed: an instance fills every gap.
    return found if all(found.fits(*pair) for pair in pairs) else AnswerTemplate(FREE.parts, len(pairs))


def _is_object(answer: str) -> bool:
    try:
        return isinstance(json.loads(answer), dict)
    except (ValueError, RecursionError):
        return False


def _marked(question: str, answer: str, is_json: bool) -> str:
    """Return the answer with a mark wherever it says the question again, as words of their own."""
    asked = _inside(question, is_json)
    again = re.compile(rf"(?<!\w){re.escape(asked)}(?!\w)") if asked.strip() else re.compile(r"(?!)")
    return again.sub(_ASKED, answer.replace(_ASKED, " "))


def _inside(text: str, is_json: bool) -> str:
    """Return a text as it stands inside an answer: in JSON, within its quotes."""
    return json.dumps(text, ensure_ascii=False)[1:-1] if is_json else text


def _unified(texts: Sequence[str], *, sentences: bool) -> list[str | Slot | None]:
    """Return the parts of texts that differ: what all begin with, one slot, what all end with."""
    if len(set(texts)) == 1:
        return _cut(texts[0])
    before = os.path.commonprefix(texts)
    after = os.path.commonprefix([text[len(before) :][::-1] for text in texts])[::-1]
    before = _trimmed(before, sentences=sentences)
    if any(_splits(text, len(text) - len(after)) for text in texts):
        # The common end begins inside a word.
        after = after.lstrip("".join(c for c in set(after) if c.isalnum() or c in "_-"))
    # A bracket or quote that closes what the value opened is the value's.
    while after and after[0] in _OPENERS and before.count(_OPENERS[after[0]]) % (2 if after[0] in "\"'`" else 99) == 0:
        after = after[1:]
    while sentences and after and not _SENTENCE_START.match(after):
        after = after[1:]
    # A blank between slot and fixed end is the end's: values have none of their own.
    return [*_cut(before), Slot(_label(before)), *_cut(after)]


def _splits(text: str, at: int) -> bool:
    return 0 < at < len(text) and text[at - 1].isalnum() and text[at].isalnum()


def _trimmed(before: str, *, sentences: bool) -> str:
    """Return a common beginning cut where a value may begin: behind a label, a sentence, or else a blank."""
    if labels := [found.end() for found in _LABELLED.finditer(before)]:
        return before[: labels[-1]]
    if sentences:
        while before and not _SENTENCE_END.search(before):
            before = before[:-1]
        return before
    while before and before[-1].isalnum():
        before = before[:-1]
    return before


def _label(before: str) -> str:
    found = _LABEL.search(before.rsplit("\n", 1)[-1])
    return spelled(next(filter(None, found.groups()))) if found else ""


def _cut(text: str) -> list[str | Slot | None]:
    """Return a fixed text as parts, the question in it as None."""
    pieces: list[str | Slot | None] = []
    for number, piece in enumerate(text.split(_ASKED)):
        pieces += [None] if number else []
        pieces += [piece] if piece else []
    return pieces


def _joined(parts: Sequence[str | Slot | None]) -> list[str | Slot | None]:
    joined: list[str | Slot | None] = []
    for part in parts:
        last = joined[-1] if joined else None
        if isinstance(part, str) and isinstance(last, str):
            joined[-1] = last + part
        elif part != "":
            joined.append(part)
    return joined


def fill(
    slots: Sequence[Slot], *, values: Mapping[str, str], answer: str, keys: Sequence[str], text: str
) -> list[str] | str:
    """Return one value for each slot, or the label of the slot for which a fact has none.

    By name where a value is called as the slot is; else values, then keys, in order where there are as many; a single
    slot takes the answer, or the text.
    """
    named = {spelled(name): value for name, value in values.items()}
    if slots and all(slot.label in named for slot in slots):
        return [named[slot.label] for slot in slots]
    if len(slots) == 1 and (answer or not values):
        return [answer or text]
    for ordered in (list(values.values()), list(keys)):
        if len(ordered) == len(slots) and not any(slot.label in named for slot in slots):
            return ordered
    missing = next((slot.label for slot in slots if slot.label not in named), "")
    return missing or "answer"
