"""Rows unlike the rest: another language, an answer that breaks off, a class that hardly ever comes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fledge.data.checks.language import NAMES
from fledge.data.checks.look import LANGUAGES, Rows
from fledge.data.checks.shape import Ending
from fledge.data.checks.view import quoted, warning
from fledge.errors import Finding

# One language is the rows' own where so large a share of those that can be told are in it.
OWN_SHARE = 0.9
MIN_JUDGED = 20
MAX_CLASSES = 40
RARE_ROWS = 5
LOPSIDED = 20
SHOWN_ANSWER_CHARS = 20


@dataclass(frozen=True)
class Balance:
    """How many rows there are of each: languages by code ("" for not told), and answers where they are classes."""

    languages: dict[str, int]
    answers: dict[str, int]


def balance(rows: Rows) -> Balance:
    """Return how languages and classes are spread, the most frequent first."""
    places, counts = np.unique(rows.figures["language"], return_counts=True)
    languages = {LANGUAGES[place]: int(count) for place, count in zip(places, counts, strict=True)}
    ordered = dict(sorted(languages.items(), key=lambda item: -item[1]))
    told = np.flatnonzero(rows.figures["answer"])
    hashes, first, counts = np.unique(rows.figures["answer"][told], return_index=True, return_counts=True)
    if not 2 <= len(hashes) <= MAX_CLASSES or len(told) < max(MIN_JUDGED, 5 * len(hashes)):
        return Balance(ordered, {})
    named = [(rows.words(int(told[place]))[3], int(count)) for place, count in zip(first, counts, strict=True)]
    return Balance(ordered, dict(sorted(named, key=lambda item: -item[1])))


def check_languages(rows: Rows, found: Balance) -> Iterator[Finding]:
    """Yield the rows in a language that few others are in; none where languages are mixed throughout."""
    judged = {name: count for name, count in found.languages.items() if name}
    total = sum(judged.values())
    own = max(judged, key=lambda name: judged[name], default="")
    if total < MIN_JUDGED or judged[own] < OWN_SHARE * total:
        return
    codes = rows.figures["language"]
    for row in np.flatnonzero((codes != 0) & (codes != LANGUAGES.index(own))):
        origin, question, answer, _ = rows.words(int(row))
        language = NAMES[LANGUAGES[codes[row]]]
        shown = answer if len(answer) > SHOWN_ANSWER_CHARS else question or answer
        message = f"seems to be {language}, the other rows are {NAMES[own]}: {quoted(shown)}."
        yield warning("data.language", origin, message, "Translate or remove it, unless it is meant.")


def check_endings(rows: Rows) -> Iterator[Finding]:
    """Yield the answers that end in the middle of a sentence where the others end as sentences do."""
    endings = rows.figures["ending"]
    closed, cut = (int((endings == kind).sum()) for kind in (Ending.CLOSED, Ending.OPEN))
    if closed + cut < MIN_JUDGED or closed < OWN_SHARE * (closed + cut):
        return
    for row in np.flatnonzero(endings == Ending.OPEN):
        origin, _, answer, _ = rows.words(int(row))
        message = f"the answer seems to be cut off: '...{answer[-40:]}'."
        yield warning(
            "data.cut_answer", origin, message, "Complete it or remove the row; the model learns to stop there."
        )


def check_balance(found: Balance, where: str) -> Iterator[Finding]:
    """Yield one warning where a class is too rare to be learnt, or hardly anything else comes."""
    if not found.answers:
        return
    most, least = max(found.answers.values()), min(found.answers.values())
    rare = [f"{quoted(name, longest=30)} ({count})" for name, count in found.answers.items() if count < RARE_ROWS]
    if rare:
        message = f"answers that hardly ever come: {', '.join(rare[:5])}{', ...' if len(rare) > 5 else ''}."
        yield warning("data.imbalance", where, message, "Mend them if they are misspelt, or give more rows of them.")
    elif most > LOPSIDED * least:
        name = next(iter(found.answers))
        message = f"{quoted(name, longest=30)} is the answer {most:,} times, the rarest one {least:,} times."
        yield warning(
            "data.imbalance", where, message, "Give more rows of the rare ones: always saying the one would do."
        )
