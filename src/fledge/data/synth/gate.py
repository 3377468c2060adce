"""The quality gate: every row that a teacher made passes it, or is dropped for one reason that is counted."""

from __future__ import annotations

import re
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain

from fledge.data.checks import near
from fledge.data.checks.language import language_of
from fledge.data.checks.view import bare, plain
from fledge.data.checks.wording import content
from fledge.data.synth.answers import AnswerTemplate
from fledge.data.synth.english import content_words
from fledge.data.synth.material import Side, Source

MAX_QUESTION_CHARS = 400
MAX_ANSWER_CHARS = 8000
# So large a share of a statement's words must be in the other, where no key says what matters.
SHARED = 0.6
SHORTEST_TELLING = 3
# Of rows that differ in one word alone so many, the latest, are compared.
A_GAP = 50
_REFUSAL = re.compile(
    r"\bas an? (?:ai|artificial|(?:large )?language model)\b|\bi(?:'m| am) (?:sorry|unable|not able)\b.{0,40}"
    r"\b(?:can(?:no|')?t|unable|help|assist|provide)\b|\bi can(?:no|')t (?:help|assist|provide|answer|fulfil|do that)\b"
    r"|\b(?:does not|doesn't) (?:say|mention|contain|provide|specify)\b"
    r"|\bno information (?:is |was )?(?:given|provided)\b"
    r"|\bnot (?:mentioned|stated|specified) in the (?:text|passage|fact|context)\b",
    re.IGNORECASE,
)


class Reason(StrEnum):
    """Why a row is dropped."""

    UNREADABLE = "unreadable"  # not what the teacher was asked for
    LENGTH = "length"
    REFUSAL = "refusal"
    LANGUAGE = "language"
    OFF_TEMPLATE = "off_template"
    FACT_LOST = "fact_lost"
    NOT_ANSWERABLE = "not_answerable"
    GIVES_AWAY = "gives_away"
    DUPLICATE = "duplicate"
    CONTRADICTION = "contradiction"
    NEAR_DUPLICATE = "near_duplicate"
    LEAK = "leak"


@dataclass(frozen=True)
class Candidate:
    """A row before the gate. `values` fill the template; `quote` is where a passage says it, "" where a fact does."""

    source: Source
    side: Side
    question: str
    answer: str
    values: tuple[str, ...]
    quote: str = ""


@dataclass
class _Kept:
    question: str
    values: tuple[str, ...]
    side: Side


class Gate:
    """Judges candidates one by one and remembers those it let through, to see what comes again.

    language: ISO code of what the seeds are written in, "" where it cannot be told.
    """

    def __init__(self, template: AnswerTemplate, *, language: str = "") -> None:
        self._template, self._language = template, language
        self._kept: list[_Kept] = []
        self._exact: dict[str, int] = {}
        self._meant: dict[tuple[str, ...], int] = {}
        # By what a question says without one word of it: what differs there may be a slip of the hand.
        self._gaps: defaultdict[tuple[str, ...], deque[int]] = defaultdict(lambda: deque(maxlen=A_GAP))
        self._words: Counter[str] = Counter()

    def judge(self, candidate: Candidate) -> Reason | None:
        """Return why the row is dropped, or None: then it is kept and remembered."""
        for check in (_length, _refusal, self._foreign, self._off_template, _fact_lost, _not_answerable, _gives_away):
            if (reason := check(candidate)) is not None:
                return reason
        return self._again(candidate)

    def _foreign(self, candidate: Candidate) -> Reason | None:
        said = candidate.answer if self._template.is_free else " ".join(candidate.values)
        found = language_of(f"{candidate.question} {said}")
        return Reason.LANGUAGE if found and self._language and found != self._language else None

    def _off_template(self, candidate: Candidate) -> Reason | None:
        return None if self._template.fits(candidate.question, candidate.answer) else Reason.OFF_TEMPLATE

    def _again(self, candidate: Candidate) -> Reason | None:
        asked = plain(candidate.question)
        if (before := self._exact.get(asked)) is not None:
            return self._repeats(candidate, self._kept[before]) or Reason.DUPLICATE
        words = bare(candidate.question)
        meaning = tuple(content(words))
        places = [self._meant[meaning]] if meaning in self._meant else []
        gaps = [(*meaning[:place], "", *meaning[place + 1 :]) for place in range(len(meaning))]
        places += chain.from_iterable(self._gaps[gap] for gap in gaps)
        for place in places:
            if near.alike(words, self._kept[place].question, count=self._words.__getitem__):
                return self._repeats(candidate, self._kept[place]) or Reason.NEAR_DUPLICATE
        for gap in gaps:
            self._gaps[gap].append(len(self._kept))
        self._words.update(set(meaning))
        self._exact[asked] = self._meant[meaning] = len(self._kept)
        self._kept.append(_Kept(words, candidate.values, candidate.side))
        return None

    def _repeats(self, candidate: Candidate, before: _Kept) -> Reason | None:
        if before.side is not candidate.side:
            return Reason.LEAK
        return Reason.CONTRADICTION if before.values != candidate.values else None


def _length(candidate: Candidate) -> Reason | None:
    question, answer = candidate.question.strip(), candidate.answer.strip()
    fits = 0 < len(question) <= MAX_QUESTION_CHARS and 0 < len(answer) <= MAX_ANSWER_CHARS and "\n\n" not in question
    return None if fits and any(c.isalnum() for c in question) else Reason.LENGTH


def _refusal(candidate: Candidate) -> Reason | None:
    if _REFUSAL.search(candidate.source.text):
        return None  # a fact about refusing
    found = _REFUSAL.search(candidate.question) or any(_REFUSAL.search(value) for value in candidate.values)
    return Reason.REFUSAL if found else None


def _fact_lost(candidate: Candidate) -> Reason | None:
    answer = _folded(candidate.answer)
    if candidate.source.keys:
        return None if all(_folded(key) in answer for key in candidate.source.keys) else Reason.FACT_LOST
    if candidate.source.values is not None:
        return None  # its own words, filled in by us
    said, known = _words(candidate.values), content_words(candidate.source.text)
    return None if len(said & known) >= SHARED * len(said) else Reason.FACT_LOST


def _not_answerable(candidate: Candidate) -> Reason | None:
    source = candidate.source
    text = _folded(source.text)
    if not all(_folded(key) in text for key in source.keys):
        return Reason.NOT_ANSWERABLE
    if source.values is None and not source.keys and _folded(candidate.quote) not in text:
        return Reason.NOT_ANSWERABLE
    asked = content_words(candidate.question)
    known = content_words("\n".join((source.text, *source.wordings)))
    # "Who are you?" has no word to share, and neither has any other wording of it.
    nothing_to_share = bool(source.wordings) and not any(content_words(wording) for wording in source.wordings)
    return None if asked & known or nothing_to_share else Reason.NOT_ANSWERABLE


def _gives_away(candidate: Candidate) -> Reason | None:
    source = candidate.source
    keys = source.keys or ((candidate.quote,) if candidate.quote else ())
    telling = max((key for key in keys if len(key) >= SHORTEST_TELLING), key=len, default="")
    if not telling or any(_folded(telling) in _folded(wording) for wording in source.wordings):
        return None
    return Reason.GIVES_AWAY if _folded(telling) in _folded(candidate.question) else None


def _words(texts: Sequence[str]) -> set[str]:
    return content_words("\n".join(texts))


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
