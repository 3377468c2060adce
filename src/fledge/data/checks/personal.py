"""Personal data in text. A check digit has to be right; what standards reserve for examples is nobody's."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fledge.data.checks.numbers import (
    is_card,
    is_china_id,
    is_codice_fiscale,
    is_cpf,
    is_dni,
    is_iban,
    is_nir,
    is_personnummer,
    is_pesel,
    is_steuer_id,
)
from fledge.data.checks.view import holds_any, sieve


@dataclass(frozen=True)
class Hit:
    """One find in a text. `kind` names it in the placeholder that may replace it: EMAIL, CARD, ..."""

    kind: str
    start: int
    end: int


@dataclass(frozen=True)
class Pattern:
    """`mark` stands in every text that can match; `holds` says whether a match is what it looks like."""

    kind: str
    mark: str
    regex: re.Pattern[str]
    holds: Callable[[re.Match[str]], bool]


# RFC 2606 and RFC 6761: names that belong to nobody.
_NOBODY = re.compile(r"(?:^|[@.])(?:example\.(?:com|org|net|edu)|[\w.-]+\.(?:example|test|invalid|localhost))$", re.I)
_ROLE_BOXES = frozenset(("git", "noreply", "no-reply", "user", "username", "name", "you", "someone", "email"))
# Boxes and domains may hold accents (RFC 6531); a Chinese word beside an address is no part of it.
_L = "A-Za-z0-9\u00c0-\u024f"
_MAIL = rf"(?<![{_L}_.+/:-])[{_L}][{_L}_.+-]{{0,63}}@(?:[{_L}-]{{1,63}}\.){{1,5}}[A-Za-z]{{2,18}}(?![{_L}_-])"
_WORDS_OF_PHONES = re.compile(
    r"(?:phone|tel|telefon|telephone|mobile|mobil|cell|call|fax|handy|text|sms|whatsapp|ring|dial|contact|"
    r"(?:my|our|his|her|their|your) number|meine nummer|mon numéro|mi número|"
    r"téléphone|appelez|teléfono|telefono|número|电话|手机|微信|拨打|联系)\W{0,6}(?:\w{1,12}\W{1,3}){0,2}$",
    re.IGNORECASE,
)
_STREET = r"(?:Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Dr|Boulevard|Blvd|Court|Ct|Way|Place|Pl|Terrace|Square|Sq)\.?"


def _always(match: re.Match[str]) -> bool:
    return True


def _is_mail(match: re.Match[str]) -> bool:
    box, _, domain = match[0].lower().partition("@")
    return not _NOBODY.search(f"@{domain}") and box not in _ROLE_BOXES


def _is_abroad(match: re.Match[str]) -> bool:
    digits = re.sub(r"\D", "", match[0])
    return 9 <= len(digits) <= 15 and len(set(digits)) > 3 and not _is_fiction(digits)


def _is_fiction(digits: str) -> bool:
    """Numbers 555-0100 to 555-0199 are kept for films and examples; 1234567 is nobody's."""
    return digits[-7:-2] == "55501" or digits[-7:] in ("1234567", "4567890") or digits == "0123456789"


def _is_american(match: re.Match[str]) -> bool:
    digits = re.sub(r"\D", "", match[0])
    return not _is_fiction(digits) and len(set(digits)) > 3


def _is_told_phone(match: re.Match[str]) -> bool:
    before = match.string[max(0, match.start() - 40) : match.start()]
    digits = re.sub(r"\D", "", match[0])
    return 9 <= len(digits) <= 12 and len(set(digits)) > 3 and _WORDS_OF_PHONES.search(before) is not None


def _labelled(*names: str) -> Callable[[re.Match[str]], bool]:
    """Numbers that look like any other count only after their name."""
    pattern = re.compile(rf"(?:{'|'.join(names)})\W{{0,12}}(?:\w{{1,8}}\W{{1,3}})?$", re.IGNORECASE)
    return lambda match: pattern.search(match.string[max(0, match.start() - 50) : match.start()]) is not None


def _both(*tests: Callable[[re.Match[str]], bool]) -> Callable[[re.Match[str]], bool]:
    return lambda match: all(test(match) for test in tests)


def _on(check: Callable[[str], bool]) -> Callable[[re.Match[str]], bool]:
    return lambda match: check(match[0])


def _is_public_address(match: re.Match[str]) -> bool:
    parts = [int(part) for part in match[0].split(".")]
    before = match.string[max(0, match.start() - 12) : match.start()].lower()
    private = parts[0] in (0, 10, 127) or parts[0] >= 224 or parts[:2] in ([192, 168], [169, 254])
    private = private or (parts[0] == 172 and 16 <= parts[1] < 32)
    # RFC 5737: three nets for examples; example.com's own stands in many a manual. Small numbers are versions and
    # sections.
    example = parts[:3] in ([192, 0, 2], [198, 51, 100], [203, 0, 113]) or match[0] in (
        "8.8.8.8",
        "1.1.1.1",
        "1.2.3.4",
        "93.184.216.34",
    )
    numbered = max(parts) < 20 or any(word in before for word in ("version", "v.", "section", "release"))
    return max(parts) < 256 and not (private or example or numbered)


_TOWN = r"\s*[A-Z][a-zA-Z .]+,?\s(?:[A-Z]{2} \d{5}|[A-Z]{1,2}\d[\dA-Z]? ?\d[A-Z]{2})\b"
_GERMAN_STREET = r"\b[A-ZÄÖÜ][\wäöüß-]+(?:straße|strasse|str\.|weg|platz|allee|gasse) \d{1,4} ?[a-z]?"
_POSTCODE = r"\d{5} [A-ZÀ-Ý][a-zß-ÿ]+"
_FRENCH_STREET = (
    r"\b\d{1,4}(?: ?(?:bis|ter))?,? (?:rue|avenue|av\.|boulevard|bd\.?|place|chemin|allée|impasse|quai|cours|route) "
    r"[^\n,\d]{2,40}"
)
_SOUTHERN_STREET = (
    r"(?:\b(?:Calle|Avenida|Avda?\.|Av\.|Plaza|Paseo|Camino|Ronda|Carrer|Via|Viale|Piazza|Corso) |\bC/ ?)"
    r"[^\n,\d]{2,40},? (?:n[.º°]{0,2} ?)?\d{1,4}[^\n,\d]{0,12}"
)
_BOX = r"\b(?:P\.? ?O\.? ?Box|Postfach|Apartado(?: de Correos)?|BP|B\.P\.|Casella Postale) \d(?:[ \d]{0,8}\d)?"
_NINO_BEGINS = r"\b(?!BG|GB|NK|KN|TN|NT|ZZ|QQ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]"
# Of the numbers one says by its mark that it may stand there at all; the others are tried where a long number is.
PATTERNS: tuple[Pattern, ...] = tuple(
    Pattern(kind, mark, re.compile(regex), holds)
    for kind, mark, regex, holds in (
        ("EMAIL", "@", _MAIL, _is_mail),
        ("IBAN", "", r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b", _on(is_iban)),
        ("CARD", "", r"(?<![\d.,+-])\d(?:[ -]?\d){12,18}(?![\d,])", _on(is_card)),
        (
            "SSN",
            "-",
            r"(?<![\d-])(?!000|666|9|078-05-1120|219-09-9999)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])",
            _always,
        ),
        ("NINO", "", _NINO_BEGINS + r" ?\d{2} ?\d{2} ?\d{2} ?[A-D]\b", _always),
        ("DNI", "", r"\b(?:\d{8}|[XYZ]\d{7})-?[A-HJ-NP-TV-Z]\b", _on(is_dni)),
        ("CODICE_FISCALE", "", r"\b[A-Z]{6}\d{2}[A-EHLMPRST]\d{2}[A-Z]\d{3}[A-Z]\b", _on(is_codice_fiscale)),
        ("CPF", "-", r"(?<![\d.])\d{3}\.\d{3}\.\d{3}-\d{2}(?!\d)", _on(is_cpf)),
        ("NIR", "", r"(?<!\d)[12] ?\d{2} ?(?:0[1-9]|1[0-2]) ?\d{2} ?\d{3} ?\d{3} ?\d{2}(?!\d)", _on(is_nir)),
        ("PERSONNUMMER", "-", r"(?<![\d-])\d{6}-\d{4}(?![\d-])", _on(is_personnummer)),
        ("ID_CARD", "", r"(?<![\w.])[1-9]\d{16}[\dX](?!\w)", _on(is_china_id)),
        ("PESEL", "", r"(?<![\d.])\d{11}(?![\d.,])", _both(_labelled("PESEL"), _on(is_pesel))),
        (
            "TAX_ID",
            "",
            r"(?<![\d.])\d{2} ?\d{3} ?\d{3} ?\d{3}(?![\d.,])",
            _both(
                _labelled("steuer-?id(?:nr|entifikationsnummer)?", "identifikationsnummer", "IdNr"), _on(is_steuer_id)
            ),
        ),
        ("PHONE", "+", r"(?<![\w+.)=*/-])\+[1-9]\d{0,2}(?:[ ().\-/]{0,2}\d){7,13}(?![\d%])", _is_abroad),
        (
            "PHONE",
            "",
            r"(?<![\d.$+-])(?:1[-. ])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[-.])[2-9]\d{2}[-. ]\d{4}(?![\d.-]\d|\d)",
            _is_american,
        ),
        ("PHONE", "", r"(?<![\d.,$+-])\(?0[1-9]\d{0,4}\)?(?:[ ./-]?\d){5,9}(?![\d.,]\d|\d)", _is_told_phone),
        ("PHONE", "", r"(?<![\d.,$+-])1[3-9]\d[ -]?\d{4}[ -]?\d{4}(?![\d.,]\d|\d)", _is_told_phone),
        ("IP", ".", r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.]*\d)", _is_public_address),
        (
            "ADDRESS",
            "",
            rf"\b\d{{1,5}} (?:[A-Z][a-z]+ ){{1,3}}{_STREET}(?:(?:,? |\n)[\w #.]{{1,20}})?[,\n]{_TOWN}",
            _always,
        ),
        ("ADDRESS", "", _GERMAN_STREET + r"\s*[,\n]\s*(?:D-)?" + _POSTCODE, _always),
        ("ADDRESS", "", _FRENCH_STREET + r"\s*[,\n]\s*(?:F-)?" + _POSTCODE, _always),
        ("ADDRESS", "", _SOUTHERN_STREET + r"\s*[,\n]\s*(?:[^\n,\d]{1,20},\s*)?" + _POSTCODE, _always),
        ("ADDRESS", "", rf"{_BOX}\s*[,\n](?:\s*{_POSTCODE}|{_TOWN})", _always),
    )
)
_LONG_NUMBER = re.compile(
    r"\d(?:[ .()/-]{0,2}\d){4}|[A-Z]{2}\d{2} ?[A-Z0-9]{4} ?[A-Z0-9]{4}|\d [A-Z][a-z]+ |\d{1,3}\.\d{1,3}\.\d{1,3}\.\d"
)
_NUMBERED = tuple(pattern for pattern in PATTERNS if pattern.kind != "EMAIL")
_DIGITS = sieve(string.digits)


def find_personal(text: str) -> list[Hit]:
    """Return the personal data in a text, in order; of finds that overlap the first of PATTERNS counts."""
    hits: list[Hit] = []
    if "@" in text:
        hits += _found(PATTERNS[0], text)
    # Most texts hold no digit at all, and that is seen ten times faster.
    if has_digit(text) and _LONG_NUMBER.search(text) is not None:
        for pattern in _NUMBERED:
            if pattern.mark in text:
                hits += [hit for hit in _found(pattern, text) if not _taken(hit, hits)]
    return sorted(hits, key=lambda hit: hit.start)


def has_digit(text: str) -> bool:
    """Whether there may be a digit in a text; other scripts have digits of their own."""
    return not text.isascii() or holds_any(text, _DIGITS)


def _found(pattern: Pattern, text: str) -> Iterator[Hit]:
    for match in pattern.regex.finditer(text):
        if pattern.holds(match):
            yield Hit(pattern.kind, match.start(), match.end())


def _taken(hit: Hit, hits: list[Hit]) -> bool:
    return any(hit.start < other.end and other.start < hit.end for other in hits)
