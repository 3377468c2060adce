"""Spans of time as people write them in a CV: 2019-2021, Mar 2019 – present, 03/2018 to 05/2020, since 2020."""

from __future__ import annotations

import re
from dataclasses import dataclass

_MONTHS = (
    r"jan(?:uary|uar|uari|vier)?|jän(?:ner)?|ene(?:ro)?|feb(?:ruary|ruar|rero)?|f[ée]v(?:rier)?|mar(?:ch|zo|s)?|mär(?:z)?|mrz"
    r"|apr(?:il)?|abr(?:il)?|avr(?:il)?|may(?:o)?|mai|jun(?:e|i|io)?|juin|jul(?:y|i|io)?|juil(?:let)?|aug(?:ust)?|ago(?:sto)?"
    r"|ao[uû]t|sep(?:t|tember|tiembre|tembre)?|oct(?:ober|ubre|obre)?|okt(?:ober)?|nov(?:ember|iembre|embre)?"
    r"|dec(?:ember)?|dez(?:ember)?|dic(?:iembre)?|d[ée]c(?:embre)?|spring|summer|autumn|fall|winter"
)
_YEAR = r"(?:19[4-9]|20[0-4])\d"
_MONTH_YEAR = rf"(?:{_MONTHS})\.?,?\s+(?:de\s+)?{_YEAR}|\d{{1,2}}\s?[./]\s?{_YEAR}"
_DATE = rf"(?:{_MONTH_YEAR}|{_YEAR}[-/.](?:0[1-9]|1[0-2])(?!\d)|{_YEAR})"
_NOW = (
    r"present|now|today|current(?:ly)?|ongoing|date|heute|jetzt|laufend|actualidad|actualmente|presente|hoy"
    r"|aujourd'hui|aujourd’hui|présent|ce jour"
)
_TO = r"\s*(?:-|–|—|−|\bto\b|\buntil\b|\btill\b|\bbis\b|\bhasta\b|\bau\b|\bà\b|\ba\b)\s*"
_FLAGS = re.IGNORECASE
_RANGE = re.compile(rf"(?<![\w/])(?:from\s+)?({_DATE}){_TO}(?:({_DATE})|(?:{_NOW}))(?!\w)", _FLAGS)
_SHORT = re.compile(r"(?<![\w/-])((?:19|20)(\d\d))\s?[-–/]\s?(\d\d)(?![\w-])")
_SINCE = re.compile(rf"(?<!\w)(?:since|from|seit|ab|desde|depuis)\s+({_DATE})(?!\w)", _FLAGS)
_OPEN = re.compile(rf"(?<![\w/])({_DATE})\s*[-–—](?=\s*(?:$|[|,;)]|\s{{2}}))", _FLAGS)
_ONE = re.compile(rf"(?<![\w/-])({_DATE})(?![\w-])", _FLAGS)
# What holds nothing but a date leaves these behind.
_LEFT = re.compile(r"\(\s*\)|\[\s*\]|^[\s,;:|–—-]+|[\s,;:|–—-]+$")


@dataclass(frozen=True)
class Span:
    """When something was: `end` "" with a start means that it goes on; `rest` is the line without it."""

    start: str
    end: str
    rest: str
    is_range: bool


def find_span(line: str) -> Span | None:
    """Return the first span of time in a line, or None. A lone year counts, with is_range False."""
    if match := _RANGE.search(line):
        return Span(match[1], match[2] or "", _without(line, match), True)
    if match := _SINCE.search(line):
        return Span(match[1], "", _without(line, match), True)
    if (match := _SHORT.search(line)) and int(match[3]) >= int(match[2]):
        return Span(match[1], match[1][:2] + match[3], _without(line, match), True)
    if match := _OPEN.search(line):
        return Span(match[1], "", _without(line, match), True)
    if match := _ONE.search(line):
        return Span(match[1], match[1], _without(line, match), False)
    return None


def _without(line: str, match: re.Match[str]) -> str:
    rest = f"{line[: match.start()]}  {line[match.end() :]}"
    while (shorter := _LEFT.sub("", rest).strip()) != rest:
        rest = shorter
    return rest
