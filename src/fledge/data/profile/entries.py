"""The jobs and schools of a CV, whatever their layout: one line each, two lines, columns of dates, headings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fledge.data.profile.contact import plain
from fledge.data.profile.dates import Span, find_span
from fledge.data.profile.record import Job, School
from fledge.data.profile.words import DEGREE, EMPLOYER, ROLE, SCHOOL

_BULLET = re.compile(r"^\s*(?:[-*+•▪◦‣–]\s+|\d{1,2}[.)]\s+)")
_CUTS = re.compile(r"\t+|\s{2,}|\s*[|·•∙]\s*|\s+[–—-]\s+|\s+@\s+|,\s+|;\s+|:\s+")
_AT = re.compile(r"\s+(?:at|with|for)\s+(?=[A-ZÀ-Ý\d])")
# Only an employer stands behind these.
_CHEZ = re.compile(r"\s+(?:bei|bei der|beim|chez)\s+(?=[A-ZÀ-Ý\d])")
_ABBREVIATED = re.compile(r"(?:\b(?:[A-Z]\.){2,}|\b(?:Inc|Ltd|Co|Corp|Bros)\.)$")
# How long something was, beside when it was: (2 years 3 months).
_LASTED = re.compile(r"\(?\b\d+\s+(?:years?|yrs?|months?|mos?)\b(?:,?\s+\d+\s+(?:months?|mos?)\b)?\)?", re.IGNORECASE)
_LABELS = {
    "role": "position|role|title|job title|designation|stelle|tätigkeit|puesto|cargo|poste",
    "employer": "company|employer|organi[sz]ation|firma|arbeitgeber|empresa|entreprise|employeur",
    "span": "period|dates?|duration|from|years?|zeitraum|periodo|période",
}
_LABEL = re.compile(
    rf"(?:{'|'.join(f'(?P<{part}>{names})' for part, names in _LABELS.items())})\s*:\s*(?P<value>.+)", re.I
)
# What belongs to the name before the comma: Kettle & Sons, Ltd.
_SUFFIX = re.compile(r"^(?:inc|ltd|llc|plc|co|gmbh|ag|s\.?a|s\.?l|corp)\.?$", re.IGNORECASE)
_REMOTE = re.compile(
    r"^\(?(?:remote|hybrid|full[- ]time|part[- ]time|vollzeit|teilzeit|freelance|contract)\)?$", re.IGNORECASE
)
MOST_HEAD_WORDS = 14


@dataclass(frozen=True)
class _Line:
    text: str
    span: Span | None
    bullet: bool
    indent: int

    @property
    def can_be_head(self) -> bool:
        """A title, not a sentence about what was done."""
        ends = self.text.endswith((".", ";")) and not _ABBREVIATED.search(self.text)
        return bool(self.text) and len(self.text.split()) <= MOST_HEAD_WORDS and not ends


@dataclass(frozen=True)
class _Entry:
    span: Span | None
    heads: tuple[str, ...]


def read_jobs(lines: Sequence[str]) -> tuple[list[Job], list[str]]:
    """Return the jobs of a section, and the lines that may be some but cannot be told apart."""
    if labelled := _labelled(lines):
        return labelled, []
    jobs, unsure = [], []
    for entry in _entries(lines):
        role, employer = _role_and_employer(entry.heads)
        if role or employer:
            start, end = (entry.span.start, entry.span.end) if entry.span else ("", "")
            jobs.append(Job(role, employer, start, end))
        elif entry.heads:
            unsure.append("; ".join(entry.heads))
    return jobs, unsure


def _labelled(lines: Sequence[str]) -> list[Job]:
    """Return jobs that are written out (Company: ..., Position: ...); a label that comes again begins another."""
    found: list[dict[str, str]] = []
    for raw in lines:
        if match := _LABEL.match(plain(_BULLET.sub("", raw))):
            part = next(name for name in _LABELS if match[name])
            if not found or part in found[-1]:
                found.append({})
            found[-1][part] = match["value"].strip(" ,;")
    if sum(map(len, found)) < 2:
        return []
    spans = [find_span(parts.get("span", "")) for parts in found]
    return [
        Job(parts.get("role", ""), parts.get("employer", ""), span.start if span else "", span.end if span else "")
        for parts, span in zip(found, spans, strict=True)
        if "role" in parts or "employer" in parts
    ]


def read_schools(lines: Sequence[str]) -> tuple[list[School], list[str]]:
    """Return what was studied or learnt, and the lines that cannot be told apart."""
    schools, unsure = [], []
    for entry in _entries(lines, undated=True):
        parts = [part for head in entry.heads for part in _parts(head)]
        at_school = [part for part in parts if SCHOOL.search(part) and not _is_degree(part)]
        degrees = [part for part in parts if part not in at_school and _is_degree(part)]
        if not degrees and at_school:
            # "Physics, University of Porto": what is no place is what was studied.
            degrees = [part for part in parts[: parts.index(at_school[0])] if part[:1].isupper()][:1]
        if degrees or at_school:
            start, end = (entry.span.start, entry.span.end) if entry.span else ("", "")
            schools.append(School(", ".join(degrees[:2]), at_school[0] if at_school else "", start, end))
        elif entry.heads:
            unsure.append("; ".join(entry.heads))
    return schools, unsure


def _is_degree(part: str) -> bool:
    return bool(DEGREE.search(part)) and not re.match(r"(?i)(?:university|school|college)\b", part)


def _entries(lines: Sequence[str], *, undated: bool = False) -> list[_Entry]:
    """Return the entries of a section: every date begins one, with the titles beside, above or below it."""
    cut = [_line(raw) for raw in lines]
    dated = [i for i, line in enumerate(cut) if line.span is not None and _opens(line, cut)]
    used: set[int] = set(dated)
    entries: list[tuple[int, _Entry]] = []
    for number, place in enumerate(dated):
        line = cut[place]
        assert line.span is not None
        rest = line.span.rest
        before = dated[number - 1] if number else -1
        after = dated[number + 1] if number + 1 < len(dated) else len(cut)
        above = _titles(cut, range(place - 1, before, -1), used)
        below = _titles(cut, range(place + 1, after), used)
        heads: list[tuple[int, str]] = [(place, rest)] if rest else []
        both = DEGREE.search(rest) and SCHOOL.search(rest) if undated else ROLE.search(rest)
        whole = len(_parts(rest)) > 1 and bool(both)
        if not whole:
            # A date alone, or one title beside it: the rest stands right above, else right below.
            chosen = above if above else below
            wanted = 2 - len(heads)
            heads += [(i, cut[i].text) for i in chosen[:wanted]]
            used.update(i for i in chosen[:wanted])
        heads.sort()
        entries.append((place, _Entry(line.span, tuple(text for _, text in heads))))
    if undated:
        entries += [
            (i, _Entry(None, (line.text,)))
            for i, line in enumerate(cut)
            if i not in used
            and line.can_be_head
            and (SCHOOL.search(line.text) or _is_degree(line.text))
            and not any(abs(i - place) == 1 for place in dated)
        ]
    elif not dated:
        entries = [
            (i, _Entry(None, (line.text,)))
            for i, line in enumerate(cut)
            if line.can_be_head and len(_parts(line.text)) > 1 and (not line.bullet or _all_bullets(cut))
        ]
    return [entry for _, entry in sorted(entries, key=lambda item: item[0])]


def _line(raw: str) -> _Line:
    bullet = bool(_BULLET.match(raw))
    text = plain(_BULLET.sub("", raw))
    return _Line(text, find_span(_LASTED.sub("", text)) if text else None, bullet, len(raw) - len(raw.lstrip()))


def _opens(line: _Line, lines: Sequence[_Line]) -> bool:
    """Whether a line with a date begins an entry: not one that tells what was done in some year."""
    assert line.span is not None
    if line.text.endswith(".") and len(line.text.split()) > 6:
        return False
    if line.bullet and not (_all_bullets(lines) and line.indent == min(each.indent for each in lines if each.text)):
        return False
    return line.span.is_range or len(line.span.rest.split()) <= MOST_HEAD_WORDS


def _all_bullets(lines: Sequence[_Line]) -> bool:
    return all(line.bullet for line in lines if line.text)


def _titles(lines: Sequence[_Line], places: range, used: set[int]) -> list[int]:
    """Return the places of up to two titles that stand directly one after the other, from nearest to farthest."""
    found: list[int] = []
    gap = 0
    for i in places:
        line = lines[i]
        if not line.text:
            gap += 1
            # Office files and Markdown set an empty line between a heading and what belongs to it.
            if gap > 1 or found:
                break
            continue
        if i in used or line.bullet or line.span is not None or not line.can_be_head:
            break
        found.append(i)
        if len(found) == 2:
            break
    return found


def _parts(text: str) -> list[str]:
    parts: list[str] = []
    for part in _CUTS.split(text):
        part = part.strip(" ,;()")
        if not part:
            continue
        if parts and _SUFFIX.match(part):
            parts[-1] += f", {part}"
        elif not _REMOTE.match(part):
            parts.append(part)
    return parts


def _role_and_employer(heads: Sequence[str]) -> tuple[str, str]:
    """Return the role and the employer of an entry; "" for what its words do not tell."""
    for head in heads:
        role, *rest = _CHEZ.split(head, maxsplit=1)
        if not rest:
            role, *rest = _AT.split(head, maxsplit=1)
            rest = rest if ROLE.search(role) else []
        if rest:
            return role.strip(" ,"), (_parts(rest[0]) or [""])[0]
    parts = [part for head in heads for part in _parts(head)]
    if not parts:
        return "", ""
    roles = [part for part in parts if ROLE.search(part) and not _is_employer(part)]
    if not roles and (both := [part for part in parts if ROLE.search(part)]):
        roles = both[:1] if len(parts) > 1 else []
    role = roles[0] if roles else ""
    others = [part for part in parts if part != role]
    hinted = [part for part in others if _is_employer(part)]
    if role:
        return role, (hinted or others or [""])[0]
    # Of two lines, of which one is an employer, the other is what was done there; on one line it may be a place.
    if hinted and len(heads) == 2 and (own := [head for head in heads if hinted[0] not in head]):
        return own[0].strip(" ,"), hinted[0]
    return ("", hinted[0]) if hinted else ("", "")


def _is_employer(part: str) -> bool:
    return bool(EMPLOYER.search(part))
