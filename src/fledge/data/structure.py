"""A document's structure: where its blocks stand, and how much would be torn by a cut at each place between words.

Documents come from their readers with their structure written the Markdown way (readers/documents.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

_HEADING = re.compile(r"(#{1,6}) +(\S.*)")
_UNDERLINE = re.compile(r"(=+|-+)\s*")
_FENCE = re.compile(r"\s*(```+|~~~+)")
_ITEM = re.compile(r"(\s*)(?:[-*+•]|\d{1,3}[.)])\s+\S")
_INDENTED = re.compile(r"(?: {4}|\t)\s*\S")
_ROW = re.compile(r"\s*\||.*\S \| ")
# A sentence ends before a blank, where no blank is written at its sign.
_SENTENCE = re.compile(r"[.!?…][\"'”’)\]*_]*(?=\s+[^\sa-z])|[。！？]+[」』”）]?")


class Kind(IntEnum):
    HEADING = 0
    PARAGRAPH = 1
    LIST = 2
    TABLE = 3
    CODE = 4
    # Code between fences, which are written anew where it is cut.
    FENCED = 5


class Rank(IntEnum):
    """What a cut tears, least first; 1 to 6 stand before a heading of that level."""

    BLOCK = 7
    LED_IN = 8
    ITEM = 9
    SUB_ITEM = 10
    SENTENCE = 11
    LINE = 12
    AFTER_HEADING = 13
    WORD = 14


@dataclass(frozen=True)
class Block:
    """One block of a document: text[start:end], without the blank lines around it. `level` is that of a heading."""

    kind: Kind
    start: int
    end: int
    level: int = 0
    title: str = ""


def blocks(text: str) -> list[Block]:
    """Return the blocks of a document in order; between them stand blank lines and nothing else."""
    lines = list(_lines(text))
    found: list[Block] = []
    place = 0
    while place < len(lines):
        start, line = lines[place]
        if not line.strip():
            place += 1
            continue
        kind, level, title, after = _block(lines, place)
        last, words = lines[after - 1]
        while after - 1 > place and not words.strip():
            after -= 1
            last, words = lines[after - 1]
        found.append(Block(kind, start, last + len(words.rstrip()), level, title))
        place = after
    return found


def _lines(text: str) -> Iterator[tuple[int, str]]:
    start = 0
    for line in text.split("\n"):
        yield start, line
        start += len(line) + 1


Lines = list[tuple[int, str]]


def _block(lines: Lines, place: int) -> tuple[Kind, int, str, int]:
    """Return (kind, level, title, next place) of the block that begins here."""
    line = lines[place][1]
    if heading := _HEADING.match(line):
        return Kind.HEADING, len(heading[1]), heading[2].rstrip("# ").strip(), place + 1
    if fence := _FENCE.match(line):
        return Kind.FENCED, 0, "", _after_fence(lines, place, fence[1])
    if _ITEM.match(line):
        return Kind.LIST, 0, "", _after_list(lines, place)
    if _INDENTED.match(line):
        return Kind.CODE, 0, "", _after_indented(lines, place)
    below = lines[place + 1][1] if place + 1 < len(lines) else ""
    if len(below.strip()) > 2 and (under := _UNDERLINE.fullmatch(below)):
        return Kind.HEADING, 1 if under[1][0] == "=" else 2, line.strip(), place + 2
    table = bool(_ROW.match(line))
    after = place + 1
    while after < len(lines) and (text := lines[after][1]).strip():
        if _HEADING.match(text) or _FENCE.match(text) or _ITEM.match(text) or bool(_ROW.match(text)) != table:
            break
        after += 1
    return Kind.TABLE if table else Kind.PARAGRAPH, 0, "", after


def _after_fence(lines: Lines, place: int, fence: str) -> int:
    """Return the place after the fence that closes the block; one that never closes ends with the document."""
    for after in range(place + 1, len(lines)):
        line = lines[after][1].strip()
        if line.startswith(fence) and not line.strip(fence[0]):
            return after + 1
    return len(lines)


def _after_list(lines: Lines, place: int) -> int:
    """Return the place after a list: its items, what stands indented below them, and single lines that go on."""
    after = place + 1
    while after < len(lines):
        line = lines[after][1]
        if fence := _FENCE.match(line):
            if not line[0].isspace():
                break
            after = _after_fence(lines, after, fence[1])
            continue
        blank_before = not lines[after - 1][1].strip()
        goes_on = not line.strip() or _ITEM.match(line) or line[0].isspace() or not blank_before
        if not goes_on or _HEADING.match(line):
            break
        after += 1
    return after


def _after_indented(lines: Lines, place: int) -> int:
    after = place + 1
    while after < len(lines) and (not lines[after][1].strip() or _INDENTED.match(lines[after][1])):
        after += 1
    return after


def places_between(text: str, found: list[Block]) -> dict[int, int]:
    """Return every place at which the document may be cut, and what the cut tears: the rank of Rank, the least first.

    A place is where the later part begins.
    """
    ranks: dict[int, int] = {}
    for before, block in zip([None, *found], found, strict=False):
        if before is not None:
            ranks[block.start] = _between(text, before, block)
        for place, rank in _inside(text, block):
            ranks.setdefault(place, rank)
    return ranks


def _between(text: str, before: Block, block: Block) -> int:
    if before.kind is Kind.HEADING:
        return Rank.AFTER_HEADING
    if block.kind is Kind.HEADING:
        return block.level
    led_in = text[before.start : before.end].endswith(":") and block.kind is not Kind.PARAGRAPH
    return Rank.LED_IN if led_in else Rank.BLOCK


def _inside(text: str, block: Block) -> Iterator[tuple[int, int]]:
    """Yield the places inside a block, those that tear less first. A fence stays with the code beside it."""
    start, end = block.start, block.end
    if block.kind is Kind.HEADING:
        # It is torn last of all: before it is cut from what it stands above, or from its underline.
        yield from ((match.end(), Rank.WORD) for match in _BLANK.finditer(text, start, end))
        return
    if block.kind is Kind.FENCED:
        lines = text[start:end].split("\n")
        start += len(lines[0]) + (1 + len(lines[1]) - len(lines[1].lstrip()) if len(lines) > 1 else 0)
        end -= len(lines[-1]) + 1 if len(lines) > 2 and _FENCE.fullmatch(lines[-1].rstrip()) else 0
    first = len(_indent(text, block.start))
    for match in _LINE_ENDS.finditer(text, start, end):
        item = _ITEM.match(text, match.end(), end) if block.kind is Kind.LIST else None
        if item:
            yield match.end(), Rank.ITEM if len(item[1]) <= first else Rank.SUB_ITEM
        elif block.kind in (Kind.CODE, Kind.FENCED, Kind.TABLE):
            yield match.end(), Rank.SENTENCE
    if block.kind not in (Kind.CODE, Kind.FENCED):
        for match in _SENTENCE.finditer(text, start, end):
            place = _BLANKS.match(text, match.end(), end)
            if place and place.end() < end:
                yield place.end(), Rank.SENTENCE
    for rank, pattern in ((Rank.LINE, _LINE_ENDS), (Rank.WORD, _BLANK)):
        for match in pattern.finditer(text, start, end):
            yield match.end(), rank


_BLANKS, _BLANK, _LINE_ENDS = re.compile(r"\s*"), re.compile(r"\s+"), re.compile(r"\n+")


def _indent(text: str, start: int) -> str:
    found = re.compile(r"[ \t]*").match(text, start)
    return found[0] if found else ""
