"""The head of a CV: whose it is, what they do, where they live and how they are reached."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fledge.data.profile.words import PAPER, PARTICLES, ROLE, TITLES

EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_PHONE = re.compile(r"(?<![\w/.])(?:\+|00)?\(?\d[\d\s().\u2011–/-]{6,20}\d(?!\w)")
# Two years with a dash between them, and a day of birth, have eight digits too.
_DATES = re.compile(r"\s*(?:(?:19|20)\d\d\s*[-–/]\s*(?:19|20)\d\d|\d\d?[./-]\d\d?[./-]\d{4}|\d{4}-\d\d-\d\d)\s*")
_LINK = re.compile(
    r"https?://[^\s)>\]|,]+|(?<![@\w.])(?:www\.)?(?:[a-z0-9-]+\.)+(?:com|org|net|io|dev|de|es|fr|uk|eu|me|app|at|ch|it|pt|nl)"
    r"(?:/[^\s)>\]|,]*)?(?![\w@])",
    re.IGNORECASE,
)
_LABELS = {
    "name": "name",
    "place": "address|location|place|city|residence|based in|lives in|wohnort|adresse|anschrift"
    "|wohnhaft in|dirección|domicilio|ciudad|ville|domicile",
    "headline": "title|position|role|job title",
    "phone": "phone|telephone|tel|mobile|cell|telefon|handy|teléfono|móvil|téléphone|tél",
    # Found by what they look like; here only so that a labelled line is no place and no headline.
    "": "e-?mail|mail|website|web|homepage|site|linkedin|github|gitlab|date of birth|born|geburtsdatum"
    "|geboren|fecha de nacimiento|date de naissance|née?|nationality|staatsangehörigkeit|nacionalidad|nationalité",
}
_LABEL = re.compile(
    r"\W*(?:"
    + "|".join(f"(?P<{key or 'none'}>{names})" for key, names in _LABELS.items())
    + r")\b\.?\s*[:|]\s*(?P<value>.+)",
    re.IGNORECASE,
)
_PLACE = re.compile(
    r"(?:\d{4,5}\s+)?[A-ZÀ-Ý][\w.'-]+(?: [A-ZÀ-Ý]?[\w.'-]+){0,2}, ?[A-ZÀ-Ý][\w.'-]*(?: [A-ZÀ-Ý][\w.'-]+){0,2}"
)
_POSTCODE = re.compile(r"(?<!\d)\d{4,5} ([A-ZÀ-Ý][\w-]+)")
_BRITISH = re.compile(r"\b[A-Z]{1,2}\d[\dA-Z]? ?\d[A-Z]{2}\b")
_STREET = re.compile(
    r"(?:straße|strasse|str\.|gasse|allee|platz)(?!\w)|\b(?:street|road|avenue|lane|rue|boulevard|calle|avenida|plaza)\b",
    re.IGNORECASE,
)
_PIECES = re.compile(r"\t+|\s{2,}|\s+[|·•∙◦⋅/]\s+|\s+[–—-]\s+")
_MARKS = re.compile(r"[*_`#]+|<[^>]+>|\[|\]\([^)]*\)|[\U0001F000-\U0001FAFF\u2600-\u27BF\ufe0f]")
_LETTERS = re.compile(r"[^\W\d_][\w.'’-]*")
_AFTER_NAME = re.compile(r",\s*(?:PhD|Ph\.D|MSc|MBA|M\.A|B\.A|BSc|MD|RN)\b.*")
MOST_NAME_WORDS = 5
# A name stands at the very top; further down two words with capitals are anything.
NAME_LINES = 4


@dataclass(frozen=True)
class Contact:
    name: str = ""
    headline: str = ""
    place: str = ""
    email: str = ""
    phone: str = ""
    links: tuple[str, ...] = ()


def plain(line: str) -> str:
    """Return a line without Markdown's marks, tags, the addresses of links, and pictures."""
    return re.sub(r"^\s*[-*+•]\s+", "", _MARKS.sub("", line)).strip()


def read_contact(header: Sequence[str], contact: Iterable[str]) -> Contact:
    """Return what the head of a CV and its contact section tell, each thing where it stands first."""
    head = [line for raw in header if (line := plain(raw))]
    lines = [*head, *(line for raw in contact if (line := plain(raw)))]
    labelled = _labelled(lines)
    everything = "\n".join([*header, *contact])
    email = EMAIL.search(everything)
    without_mail = EMAIL.sub(" ", everything)
    tops = [*head[:NAME_LINES], *(piece for line in head[:NAME_LINES] for piece in _PIECES.split(line))]
    name = labelled.get("name") or next((found for line in tops if (found := name_in(line))), "")
    bare = [_LINK.sub("  ", EMAIL.sub("  ", line)) for line in lines if not _LABEL.match(line)]
    pieces = [piece for line in bare for part in _PIECES.split(line) if (piece := part.strip(" ,;")) and piece != name]
    return Contact(
        name=name,
        headline=labelled.get("headline") or next(filter(_is_headline, pieces), ""),
        place=_town(labelled.get("place", "")) or next((place for piece in pieces if (place := _place(piece))), ""),
        email=email[0] if email else "",
        phone=_phone(labelled.get("phone", "")) or _phone(without_mail),
        links=tuple(dict.fromkeys(match[0].rstrip(".,;/") for match in _LINK.finditer(without_mail))),
    )


def _labelled(lines: Iterable[str]) -> dict[str, str]:
    """Return what stands behind a label: Name: ..., Wohnort: ..."""
    found: dict[str, str] = {}
    for line in lines:
        if (match := _LABEL.match(line)) and (key := match.lastgroup) and match["value"].strip(" |;"):
            key = next(name for name, value in match.groupdict().items() if value is not None and name != "value")
            value = match["value"].strip(" |;")
            found.setdefault(key, name_in(value) or value if key == "name" else value)
    return found


def _phone(text: str) -> str:
    for match in _PHONE.finditer(text):
        if 8 <= len(re.sub(r"\D", "", match[0])) <= 15 and not _DATES.fullmatch(match[0]):
            return match[0].strip()
    return ""


def _is_headline(words: str) -> bool:
    """Whether a piece of the head says what somebody does: a role, not a sentence."""
    return bool(ROLE.search(words)) and len(words.split()) <= 10 and not re.search(r"\d{3}|[.!?]$", words)


def _town(address: str) -> str:
    """Return the town of an address, or the place as it is written where no street stands in it.

    Street and number are a contact detail: what is taught can be asked for by anybody.
    """
    if not re.search(r"\d", address):
        return "" if _STREET.search(address) else address
    if postcode := _POSTCODE.search(address):
        return postcode[1]
    pieces = [_BRITISH.sub("", piece).strip(" .") for piece in re.split(r"\s*[,;|\n]\s*", address)]
    told = [piece for piece in pieces if piece and not re.search(r"\d", piece) and not _STREET.search(piece)]
    return told[0] if told else ""


def _place(words: str) -> str:
    if _PLACE.fullmatch(words) and not ROLE.search(words) and not name_in(words):
        return _town(words)
    postcode = _POSTCODE.search(words)
    return postcode[1] if postcode else ""


def name_in(line: str) -> str:
    """Return the person's name that a line is, or "": two to five words, each with a capital, none of them a role."""
    words = TITLES.sub("", _AFTER_NAME.sub("", PAPER.sub("", line).strip(" ,;:"))).strip()
    parts = words.split()
    if not 2 <= len(parts) <= MOST_NAME_WORDS or ROLE.search(words) or re.search(r"[\d@:/,;!?()&|]", words):
        return ""
    if not all(p.casefold() in PARTICLES or _LETTERS.fullmatch(p) and p[0].isupper() for p in parts):
        return ""
    # NAMES IN CAPITALS are put as they are said.
    return " ".join(p.title() if p.isupper() and len(p) > 3 and "." not in p or words.isupper() else p for p in parts)
