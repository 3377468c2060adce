"""A CV as sections: which lines stand under which heading, in English, German, Spanish or French."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise

from fledge.data.profile.words import LANGUAGE

SECTIONS: dict[str, str] = {
    "jobs": "experience|work experience|professional experience|relevant experience|employment|employment history"
    "|work history|work|career|career history|professional background|positions|berufserfahrung|beruflicher werdegang"
    "|berufliche erfahrung|berufspraxis|experiencia|experiencia laboral|experiencia profesional|expérience"
    "|expériences|expérience professionnelle|expériences professionnelles",
    "schools": "education|academic background|education and training|education & training|qualifications|studies"
    "|degrees|ausbildung|bildung|bildungsweg|schulbildung|studium|formación|formación académica|educación|estudios"
    "|formation|études|diplômes",
    "projects": "projects|personal projects|selected projects|side projects|open source|open-source projects"
    "|my projects|projekte|proyectos|projets",
    "skills": "skills|technical skills|top skills|key skills|core skills|skills and tools|skills & tools|competencies"
    "|core competencies|technologies|tools|tech stack|expertise|it skills|computer skills|fähigkeiten|kenntnisse"
    "|edv-kenntnisse|it-kenntnisse|kompetenzen|competencias|habilidades|compétences|logiciels",
    "languages": "languages|language skills|sprachen|sprachkenntnisse|idiomas|lenguas|langues",
    "about": "summary|profile|about|about me|professional summary|personal statement|personal profile|objective"
    "|career objective|introduction|profil|kurzprofil|über mich|perfil|sobre mí|à propos|résumé professionnel",
    "contact": "contact|contact details|contact information|personal details|personal information|personal data|details"
    "|kontakt|kontaktdaten|persönliche daten|contacto|datos personales|coordonnées|contact me",
    "interests": "interests|hobbies|hobbies and interests|interests and hobbies|hobbies & interests|interessen|freizeit"
    "|hobbys|hobby|aficiones|intereses|loisirs|centres d'intérêt",
    "other": "references|publications|awards|certifications|certificates|courses|volunteering|volunteer experience"
    "|voluntary work|achievements|honours|honors|memberships|conferences|talks|patents|licences|licenses|training"
    "|referenzen|veröffentlichungen|zertifikate|weiterbildung|ehrenamt|auszeichnungen|publicaciones|premios|cursos"
    "|certificados|références|publications et conférences|certifications et formations",
}
_BY_NAME = {name: section for section, names in SECTIONS.items() for name in names.split("|")}
_MARKS = re.compile(r"[*_`#=~▪■●◆►§|]+|[^\w\s&'’-]")
_RULE = re.compile(r"[\s=_~*—–-]{3,}")
_MARKDOWN = re.compile(r"(#{1,6})\s+(.*)")


@dataclass
class Document:
    """The lines before the first heading, the lines of each section, and every heading as it was written."""

    header: list[str] = field(default_factory=list)
    sections: dict[str, list[str]] = field(default_factory=dict)
    headings: list[str] = field(default_factory=list)


def cut(text: str) -> Document:
    """Return the sections of a CV. An unknown heading ends a section only where it stands as high."""
    found = Document()
    into, level = found.header, 7
    lines = text.split("\n")
    if not any(line.strip() and after.strip() for line, after in pairwise(lines)):
        # Office files have an empty line after every paragraph, which then parts nothing.
        lines = [line for line in lines if line.strip()]
    for raw in lines:
        line = raw.rstrip()
        if line.strip() and _RULE.fullmatch(line):
            continue
        markdown = _MARKDOWN.match(line)
        name, rest = _named(line)
        if rest and name in ("skills", "languages") and into is found.sections.get("skills"):
            # A line of a list of skills. "Languages: C, Rust" among them are none that people speak.
            spoken = name == "languages" and LANGUAGE.search(rest) is not None
            (found.sections.setdefault("languages", []) if spoken else into).append(rest if spoken else line)
        elif name:
            found.headings.append(line.strip())
            level = len(markdown[1]) if markdown else 7
            into = found.sections.setdefault(name, [])
            if rest:
                into.append(rest)
        elif markdown and found.sections and len(markdown[1]) <= level:
            found.headings.append(line.strip())
            into = found.sections.setdefault("other", [])
        else:
            into.append(line)
    return found


def _named(line: str) -> tuple[str, str]:
    """Return the section that a line opens and what it already says of it ("Skills: Python"), or two empty texts."""
    head, colon, rest = line.partition(":")
    if colon and rest.strip() and (name := _BY_NAME.get(_plain(head))) and not head.startswith((" ", "\t", "-")):
        # "Projects: none" in a header is a section of one line; "Contact:" and "Profile:" may hold a label's value.
        return name, rest.strip(" *_\t")
    return _BY_NAME.get(_plain(line), ""), ""


def _plain(line: str) -> str:
    """Return a heading's words alone: without marks, numbering and spaced-out letters."""
    words = _MARKS.sub(" ", line).strip(" -–—'").casefold()
    if re.fullmatch(r"(?:\w ){3,}\w", words):
        words = words.replace(" ", "")
    words = re.sub(r"^\d+\s+|^[ivx]+\s(?=\w{3})", "", words)
    return re.sub(r"\s+", " ", words).strip()
