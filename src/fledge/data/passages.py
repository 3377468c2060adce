"""Document -> passages: pieces of at most so many tokens, cut where it tears least, that together are the document.

What fits is never cut inside: a section, then a block (paragraph, list, table, code), then an item, a sentence, a line,
a word. Passages do not overlap, and every word stands in exactly one of them.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from fledge.data.structure import Block, Kind, Rank, blocks, places_between
from fledge.records import Text

Measure = Callable[[str], int]
Span = tuple[int, int]
# The headings above a passage may take this share of it; the outermost are left out first.
HEADINGS_SHARE = 0.25
_PLACE = re.compile(r":\d+$")
_BLANKS = re.compile(r"\s*")


@dataclass(frozen=True)
class Passage:
    """A piece of a document. `where` is file:line; `headings` are those above it, outermost first, not in `text`."""

    text: str
    where: str
    headings: tuple[str, ...] = ()

    @property
    def context(self) -> str:
        """The headings as they are written before the text, or ""."""
        return " > ".join(self.headings) + "\n\n" if self.headings else ""

    @property
    def whole(self) -> str:
        """The text below its headings: what a reader needs who has only this passage."""
        return self.context + self.text


def passages(document: Text, limit: int, measure: Measure = len) -> Iterator[Passage]:
    """Yield the document's passages in order; `measure(passage.whole)` is at most `limit` for each.

    measure: the length of a text, in tokens, say. A word that is longer than `limit` is cut between its letters.
    """
    assert limit >= 1, "a passage holds something"
    yield from _Cutter(document, limit, measure).passages()


class _Cutter:
    def __init__(self, document: Text, limit: int, measure: Measure) -> None:
        self._document, self._text = document, document.text
        self._limit, self._measure = limit, measure
        found = blocks(self._text)
        self._headings = [block for block in found if block.kind is Kind.HEADING]
        self._fenced = [block for block in found if block.kind is Kind.FENCED]
        self._paths = _paths_of(self._headings)
        self._told: dict[tuple[int, ...], tuple[str, ...]] = {}
        self._line_starts = [0, *(match.end() for match in re.finditer("\n", self._text))]
        self._ranks = places_between(self._text, found)
        self._join_headings(found)
        self._places = sorted(self._ranks)

    def _join_headings(self, found: Sequence[Block]) -> None:
        """A heading stands alone only where the block below it would have to be cut otherwise."""
        for heading, block in zip(found, found[1:], strict=False):
            if heading.kind is Kind.HEADING and block.kind is not Kind.HEADING and self._fits((block.start, block.end)):
                self._ranks[block.start] = Rank.LED_IN

    def passages(self) -> Iterator[Passage]:
        for start, end in self._cut((0, len(self._text))):
            if text := self._shown((start, end)):
                yield Passage(text, self._where(start), self._path(start))

    def _cut(self, span: Span) -> Iterator[Span]:
        """Yield the pieces of a span: as few as the weakest joints in it allow, filled in order."""
        if self._fits(span):
            yield span
            return
        parts = self._parts(span)
        if len(parts) == 1:
            yield from self._letters(span)
            return
        sizes = [self._measure(self._shown(part)) for part in parts]
        first = 0
        while first < len(parts):
            # Parts measured one by one tell nearly what they come to together; only the result is measured again.
            last, total = first, self._size(parts[first])
            while last + 1 < len(parts) and total + sizes[last + 1] <= self._limit:
                last += 1
                total += sizes[last]
            while last > first and not self._fits((parts[first][0], parts[last][1])):
                last -= 1
            yield from self._cut((parts[first][0], parts[last][1]))
            first = last + 1

    def _parts(self, span: Span) -> list[Span]:
        """Return the span cut at all of its weakest joints."""
        inside = self._places[bisect_right(self._places, span[0]) : bisect_left(self._places, span[1])]
        if not inside:
            return [span]
        weakest = min(self._ranks[place] for place in inside)
        edges = [span[0], *(place for place in inside if self._ranks[place] == weakest), span[1]]
        return list(zip(edges, edges[1:], strict=False))

    def _letters(self, span: Span) -> Iterator[Span]:
        """Yield halves of what has no joint, until they fit; one letter is taken as it is."""
        middle = sum(span) // 2
        for half in ((span[0], middle), (middle, span[1])):
            if self._fits(half) or half[1] - half[0] <= 1:
                yield half
            else:
                yield from self._letters(half)

    def _fits(self, span: Span) -> bool:
        return self._size(span) <= self._limit

    def _size(self, span: Span) -> int:
        shown = self._shown(span)
        path = self._path(span[0])
        return self._measure(Passage(shown, "", path).whole if path else shown)

    def _shown(self, span: Span) -> str:
        """Return the text of a span; code that is cut gets its fences on both sides."""
        text = self._text[span[0] : span[1]].strip("\n").rstrip()
        before = self._fence_around(span[0])
        after = self._fence_around(span[1])
        if before is not None:
            mark = self._mark(before)
            # The last piece may be the closing fence alone.
            text = "" if text.strip() == mark else f"{mark}\n{text}"
        if after is not None and text:
            mark = self._mark(after)
            text = "" if text.strip() == self._opening(after) else f"{text}\n{mark}"
        return text

    def _fence_around(self, place: int) -> Block | None:
        at = bisect_left(self._fenced, place, key=lambda block: block.start) - 1
        return self._fenced[at] if at >= 0 and place < self._fenced[at].end else None

    def _opening(self, block: Block) -> str:
        return self._text[block.start : block.end].split("\n", 1)[0].strip()

    def _mark(self, block: Block) -> str:
        opening = self._opening(block)
        return opening[: len(opening) - len(opening.lstrip(opening[0]))]

    def _where(self, start: int) -> str:
        origin, lines = self._document.origin, self._document.lines
        if not lines and _PLACE.search(origin):
            return origin
        first = _BLANKS.match(self._text, start)
        line = bisect_right(self._line_starts, first.end() if first else start) - 1
        number = lines[line] if lines else line + 1
        return f"{origin}:{number}" if number else origin

    def _path(self, start: int) -> tuple[str, ...]:
        """Return the headings above `start`, as many of the inner ones as there is room for."""
        at = bisect_left(self._headings, start, key=lambda block: block.start)
        if at < len(self._headings) and self._headings[at].start == start:
            return self._titles(self._paths[at])
        return self._titles((*self._paths[at - 1], at - 1) if at else ())

    def _titles(self, path: tuple[int, ...]) -> tuple[str, ...]:
        if path not in self._told:
            titles: list[str] = []
            for title in reversed([*self._document.headings, *(self._headings[number].title for number in path)]):
                longer = [title, *titles]
                if self._measure(Passage("", "", tuple(longer)).context) > HEADINGS_SHARE * self._limit:
                    break
                titles = longer
            self._told[path] = tuple(titles)
        return self._told[path]


def _paths_of(headings: Sequence[Block]) -> list[tuple[int, ...]]:
    """Return the headings above each heading, outermost first, by their numbers."""
    paths: list[tuple[int, ...]] = []
    open_: tuple[int, ...] = ()
    for number, heading in enumerate(headings):
        open_ = tuple(above for above in open_ if headings[above].level < heading.level)
        paths.append(open_)
        open_ = (*open_, number)
    return paths
