"""Where each line of a document's text stands in its file, whose markup and machinery the readers have left out."""

from __future__ import annotations

import html
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fledge.data.readers.opening import Encoding, find_encoding, open_text
from fledge.data.sources import suffix_kind
from fledge.records import Text

BY_LINES = frozenset(("text", "markdown", "rst", "html"))
# A line is found by so many of its first words; where these do not stand together, by fewer.
# How far on, in words, a line is looked for: the fewer of its words are known, the nearer.
REACH = {6: 600, 3: 200, 2: 60, 1: 20}
# So many words are enough to go back for.
BACKWARDS = 3
_HIDDEN = re.compile(r"<(script|style|head|nav|footer|aside|template|noscript|svg|form)\b.*?</\1\s*>", re.DOTALL | re.I)
_WORD, _TAG = re.compile(r"\w+"), re.compile(r"<[^<>]*>")


def with_lines(document: Text, *, encoding: str = "auto") -> Text:
    """Return the document with the lines of its file; a file without lines (PDF, DOCX) gives each the line 0."""
    path, text = Path(document.origin), document.text
    if not path.is_file():
        return document
    if suffix_kind(path) not in (*BY_LINES, None):
        return replace(document, lines=(0,) * (text.count("\n") + 1))
    found = find_encoding(path) if encoding == "auto" else Encoding(encoding)
    with open_text(path, found, newline="") as file:
        raw = file.read().replace("\r\n", "\n").replace("\r", "\n")
    if raw.lstrip()[:1] == "<":
        for unseen in (_HIDDEN, _TAG):
            raw = unseen.sub(lambda found: "\n" * found[0].count("\n") or " ", raw)
        raw = html.unescape(raw)
    return replace(document, lines=tuple(lines_of(text, raw)))


def lines_of(text: str, raw: str) -> list[int]:
    """Return, for each line of `text`, the line of `raw` (from 1) in which its first words are next found.

    A line without words gets the number of the next that has some.
    """
    words: list[str] = []
    numbers: list[int] = []
    for number, line in enumerate(raw.split("\n"), start=1):
        found = _WORD.findall(line)
        words += found
        numbers += [number] * len(found)
    places = {count: _places(words, count) for count in REACH}
    at = lost = 0
    told: list[int | None] = []
    for line in text.split("\n"):
        own = _WORD.findall(line)
        place, count = _next(own, places, at, lost)
        if words[place : place + len(own)] == own:
            count = len(own)
        # What was not found may have been passed over: look that much further for what follows.
        lost = len(own) - count if count else lost + 2 * len(own)
        told.append(numbers[place] if count else None)
        at = place + count
    following, filled = (numbers or [1])[-1], []
    for known in reversed(told):
        following = following if known is None else min(known, following)
        filled.append(following)
    return filled[::-1]


def _places(words: Sequence[str], count: int) -> dict[tuple[str, ...], list[int]]:
    """Return where each run of `count` words begins."""
    found: dict[tuple[str, ...], list[int]] = {}
    for place in range(len(words) - count + 1):
        found.setdefault(tuple(words[place : place + count]), []).append(place)
    return found


def _next(
    own: Sequence[str], places: Mapping[int, Mapping[tuple[str, ...], list[int]]], at: int, lost: int
) -> tuple[int, int]:
    """Return where the first words of a line stand next and how many of them do; `at` and 0 where none does."""
    for count, reach in REACH.items():
        listed = places[count].get(tuple(own[:count]), []) if count <= len(own) else []
        first = bisect_left(listed, at)
        if first < len(listed) and listed[first] - at <= reach + lost:
            return listed[first], count
        # A short line that was found too far on has carried the search past this one.
        if count >= BACKWARDS and first and at - listed[first - 1] <= reach:
            return listed[first - 1], count
    return at, 0
