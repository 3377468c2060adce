"""A CV or a README in any kind of document -> Profile. By rule, without a model; what is not understood is told."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import astuple, replace
from pathlib import Path

from fledge.data.profile.contact import plain, read_contact
from fledge.data.profile.entries import read_jobs, read_schools
from fledge.data.profile.lists import read_languages, read_list, read_projects
from fledge.data.profile.readme import is_readme, read_readme
from fledge.data.profile.record import Profile
from fledge.data.profile.sections import cut
from fledge.data.profile.words import PAPER
from fledge.data.readers import documents
from fledge.data.readers.opening import find_encoding
from fledge.data.sources import DOCUMENTS, files_in, no_rows, suffix_kind
from fledge.errors import DataError
from fledge.records import Row

MOST_CHARS = 200_000
ABOUT_SENTENCES = 2
# What only a CV or a README tells; two words with capitals, or a place, stand at the top of any text.
TELLING = (
    "email",
    "phone",
    "links",
    "about",
    "jobs",
    "schools",
    "projects",
    "skills",
    "languages",
    "interests",
    "others",
)


def read_profile(path: Path) -> Profile:
    """Return who a CV or README is about. Raises DataError: no such file, not a document, no text, nothing found."""
    text = read_document(path)
    profile = profile_in(text)
    if not any(getattr(profile, part) for part in TELLING):
        raise DataError(
            "data.empty",
            "nothing in it reads like a CV or a README: no way to reach anybody, job, project, skill or language.",
            where=str(path),
            remedy="Give a document with headings such as Experience, Education, Skills; or answer with --interview.",
        )
    return profile


def read_document(path: Path) -> str:
    """Return the text of a txt, md, rst, html, pdf or docx file. Raises DataError as `read_profile` does."""
    if not path.is_file():
        files_in(path)
        raise DataError("data.not_found", "is a folder; a CV or README was expected.", where=str(path))
    kind = suffix_kind(path)
    if kind not in DOCUMENTS:
        raise DataError(
            "data.unknown_format",
            "is no document; a CV or a README as txt, md, rst, html, pdf or docx was expected.",
            where=str(path),
            remedy="Save it as one of these. Rows of questions and answers go into data.train as they are.",
        )
    if not path.read_bytes().strip():
        raise no_rows(path)
    by_bytes = {"pdf": documents.read_pdf, "docx": documents.read_docx}
    # Lines that begin with a date are a chat elsewhere; here they are a CV in columns.
    rows = by_bytes[kind](path) if kind in by_bytes else documents.TEXT_READERS[kind](path, find_encoding(path))
    texts = []
    for row in rows:
        if not isinstance(row, Row):
            raise DataError.from_findings([row])
        texts.append(str(row.values["text"]))
    return "\n".join(texts)[:MOST_CHARS]


def profile_in(text: str) -> Profile:
    """Return who a text is about: a CV where it has the sections of one, else a README where it has its headings."""
    text = text.replace("’", "'").replace("\u00a0", " ")
    document = cut(text)
    sections = document.sections
    told = {"jobs", "schools", "skills", "languages"} & set(sections)
    if is_readme(text) and not {"jobs", "schools"} & told:
        return read_readme(text)
    contact = read_contact(document.header, sections.get("contact", []))
    jobs, unsure = read_jobs(sections.get("jobs", []))
    schools, more = read_schools(sections.get("schools", []))
    skills, sentences = read_list(sections.get("skills", []))
    interests, _ = read_list(sections.get("interests", []))
    projects, others = read_projects(sections.get("projects", []))
    found = Profile(
        name=contact.name,
        headline=contact.headline,
        place=contact.place,
        email=contact.email,
        phone=contact.phone,
        links=contact.links,
        about=_about(sections.get("about", [])),
        jobs=tuple(jobs),
        schools=tuple(schools),
        projects=tuple(projects),
        skills=tuple(skills),
        languages=tuple(read_languages(sections.get("languages", []))),
        interests=tuple(interests),
        unsure=(*unsure, *more, *sentences, *others),
    )
    lines = [line for own in (document.header, *sections.values()) for line in own]
    return replace(found, left_out=_untaken(lines, found, unread=sections.get("other", [])))


_WORD = re.compile(r"[^\W\d_]{3,}")


def _untaken(lines: Sequence[str], profile: Profile, *, unread: Sequence[str]) -> tuple[str, ...]:
    """Return the lines most words of which stand nowhere in the profile, and those that no rule reads: nothing is
    dropped without a word."""
    taken = {word.casefold() for word in _WORD.findall(" ".join(_texts(astuple(profile))))}
    reached = [detail for detail in (profile.email, profile.phone, *profile.links) if detail]
    left = []
    for line in lines:
        words = [word.casefold() for word in _WORD.findall(line)]
        missed = words and sum(word in taken for word in words) < len(words) / 2
        told = plain(line)
        # A title over the page says nothing of anybody; a label beside what was taken has been read.
        is_title = not PAPER.sub("", told).strip(" :") or any(detail in line for detail in reached)
        if (missed and not is_title) or line in unread:
            left.append(told)
    return tuple(dict.fromkeys(filter(None, left)))


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _texts(item)


def _about(lines: list[str]) -> str:
    words = " ".join(line for raw in lines if (line := plain(raw)))
    return " ".join(re.split(r"(?<=[.!?])\s+(?=[A-ZÀ-Ý])", words)[:ABOUT_SENTENCES]).strip()
