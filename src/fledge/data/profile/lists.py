"""Skills, languages, interests and projects of a CV or a README."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from fledge.data.profile.contact import plain
from fledge.data.profile.dates import find_span
from fledge.data.profile.record import Language, Project
from fledge.data.profile.words import LANGUAGE, LEVEL

_CUTS = re.compile(r"[,;]\s+|\t+|\s{2,}|\s*[|·•∙]\s*|\s+/\s+")
_NAMED = re.compile(r"^(.{2,60}?)\s*(?::|\s[–—-]|\s\|)\s+(.+)$")
_BESIDE = re.compile(r"[()\[\]:,–—/-]+|\b(?:in|level|niveau|speaker|skills|i speak|speak)\b", re.IGNORECASE)
_SENTENCE_WORDS = 7
MOST_NAME_WORDS = 8


def read_list(lines: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the items of a list of short things, and the lines that are sentences instead. Groups lose their label."""
    items: list[str] = []
    unsure = []
    for raw in lines:
        line = plain(raw)
        label, colon, rest = line.partition(":")
        if colon and rest.strip() and len(label.split()) <= 4:
            line = rest.strip()
        for piece in _outside_brackets(line):
            item = re.sub(r"\s*\([^)]*\)$", "", piece).strip(" .,;:-–—")
            item = re.sub(r"^(?:and|und|y|et)\s+", "", item)
            if not item or item.casefold() in ("and", "etc"):
                continue
            if len(item.split()) > _SENTENCE_WORDS:
                unsure.append(item)
            else:
                items.append(item)
    return list(dict.fromkeys(items)), unsure


def _outside_brackets(line: str) -> list[str]:
    """Return a line cut at commas and bars, but not inside brackets: Python (NumPy, pandas) is one thing."""
    kept: list[str] = []
    hidden = re.sub(r"\([^)]*\)", lambda match: kept.append(match[0]) or f"\0{len(kept) - 1}\0", line)  # type: ignore[func-returns-value]
    pieces = _CUTS.split(hidden)
    if len(pieces) > 2:
        pieces[-1:] = re.split(r"\s+(?:and|und|et|y)\s+", pieces[-1])
    return [re.sub(r"\0(\d+)\0", lambda match: kept[int(match[1])], piece) for piece in pieces]


def read_languages(lines: Iterable[str]) -> list[Language]:
    """Return languages with their level as it was written: English (C1), Deutsch: Muttersprache, native Spanish."""
    found: dict[str, Language] = {}
    for raw in lines:
        line = re.sub(r"^(?:languages|sprachen|idiomas|langues)\s*:\s*", "", plain(raw), flags=re.IGNORECASE)
        # A level beside its language in a column of its own.
        columns = [cell.strip() for cell in re.split(r"\t+|\s{2,}|\s*\|\s*", line) if cell.strip()]
        pairs = len(columns) == 2 and LEVEL.fullmatch(columns[1].strip("()"))
        for piece in [" ".join(columns)] if pairs else _outside_brackets(line):
            level = " ".join(match[0] for match in LEVEL.finditer(piece))
            name = " ".join(_BESIDE.sub(" ", LEVEL.sub(" ", piece)).split()).strip(" .")
            # Two columns of a page may run into each other: what has no level must be a language by its name.
            if (level and re.fullmatch(r"[^\W\d_]+(?: [^\W\d_]+)?", name)) or LANGUAGE.fullmatch(name):
                found.setdefault(name.casefold(), Language(name[0].upper() + name[1:], level))
    return list(found.values())


def read_projects(lines: Sequence[str]) -> tuple[list[Project], list[str]]:
    """Return the projects: `name: what`, `name - what`, or a heading with what stands below it; and what is neither."""
    projects: list[Project] = []
    unsure: list[str] = []
    for raw in lines:
        line = plain(raw)
        if not line:
            continue
        headed = bool(re.match(r"\s*(?:#{1,6}\s|(?:\*\*|__)[^*_]+(?:\*\*|__)\s*$)", raw))
        span = find_span(line)
        without = (
            span.rest
            if span and (headed or len(span.rest.split()) <= MOST_NAME_WORDS or _NAMED.match(span.rest))
            else line
        )
        named = _NAMED.match(without)
        if named and len(named[1].split()) <= MOST_NAME_WORDS and not headed:
            projects.append(Project(_bare(named[1]), _sentence(named[2])))
        elif headed or (len(without.split()) <= 5 and not without.endswith((".", "!", "?"))):
            projects.append(Project(_bare(named[1]), _sentence(named[2])) if named else Project(_bare(without)))
        elif projects and not projects[-1].what:
            projects[-1] = Project(projects[-1].name, _sentence(line))
        elif not projects:
            unsure.append(line)
    return list({project.name.casefold(): project for project in projects}.values()), unsure


def _bare(name: str) -> str:
    return " ".join(re.sub(r"\s*\([^)]*\)\s*$", "", name).split()).strip(" .,:;|–—-")


def _sentence(text: str) -> str:
    """Return the first sentence, with a full stop at its end."""
    first = re.split(r"(?<=[.!?])\s+(?=[A-ZÀ-Ý])", " ".join(text.split()))[0].strip(" ;,")
    return first if first.endswith((".", "!", "?")) else f"{first}."
